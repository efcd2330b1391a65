"""Every picture mode becomes uint8 RGB; every bad file costs one clear line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rl.data import images
from rl.errors import DataError

RED = (200, 40, 60)


def write(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "tif", "tiff", "JPG"])
def test_every_format_gives_rgb(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", Image.new("RGB", (7, 5), RED))
    pixels = images.load_picture(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (5, 7, 3)
    assert np.abs(pixels.astype(int) - RED).max() <= 4
    assert pixels.flags.writeable


@pytest.mark.parametrize(
    ("mode", "color", "want"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (0, 0, 0, 127), (128, 128, 128)),
        ("I;16", 257 * 100, (100, 100, 100)),
    ],
)
def test_png_modes(tmp_path, mode, color, want):
    path = write(tmp_path / "a.png", Image.new(mode, (4, 3), color))
    assert np.array_equal(images.load_picture(path), np.full((3, 4, 3), want))


def test_palette_with_transparency_is_laid_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    path = write(tmp_path / "a.png", image, transparency=0)
    assert images.load_picture(path).tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize(
    ("mode", "color", "want"),
    [("CMYK", (0, 255, 255, 0), (255, 0, 0)), ("F", 0.5, (128, 128, 128)), ("F", 200.0, (200, 200, 200)),
     ("I", 257 * 9, (9, 9, 9)), ("I", 7, (7, 7, 7)), ("I;16", 257 * 3, (3, 3, 3))],
)  # fmt: skip
def test_tiff_modes(tmp_path, mode, color, want):
    path = write(tmp_path / "a.tif", Image.new(mode, (4, 3), color))
    assert np.abs(images.load_picture(path).astype(int) - want).max() <= 1


def write_tiff(path: Path, values: np.ndarray, endian: str) -> Path:
    """Write a grey TIFF of any type and byte order: PIL writes few of those it reads."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(endian)).tobytes()
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: width, 257: height, 258: 8 * values.dtype.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height,
            279: len(data), 339: sample_format}  # fmt: skip
    entries = b"".join(struct.pack(f"{endian}HHII", tag, 4, 1, value) for tag, value in tags.items())
    magic = {"<": b"II*\0", ">": b"MM\0*"}[endian]
    offset = struct.pack(f"{endian}I", 8 + len(data))
    path.write_bytes(magic + offset + data + struct.pack(f"{endian}H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "white", "brightest"),
    [("u2", 65535, 1.0), ("u2", 65535, 200 / 65535), ("i2", 32767, 1.0), ("i2", 32767, 200 / 32767),
     ("i4", 65535, 1.0), ("i4", 255, 1.0), ("f4", 1.0, 1.0), ("f4", 1.0, 0.3), ("f4", 1.0, 1.4),
     ("f4", 255.0, 1.0), ("f4", 255.0, 1.1), ("f4", 65535.0, 0.9)],
)  # fmt: skip
def test_white_of_a_tiff_is_that_of_its_type(tmp_path, endian, dtype, white, brightest):
    shares = np.linspace(0, brightest, 12).reshape(3, 4)
    path = write_tiff(tmp_path / "a.tif", (shares * white).astype(dtype), endian)
    want = np.clip(shares * 255, 0, 255)
    assert np.abs(images.load_picture(path)[..., 1] - want).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "values"), [("i4", [0, 10**6]), ("f4", [0.0, 1e9]), ("f4", [-9999.0, 100.0])]
)
def test_values_that_have_no_white_are_refused(tmp_path, dtype, values):
    path = write_tiff(tmp_path / "a.tif", np.array([values], dtype), "<")
    with pytest.raises(DataError, match="want 0 to 1, 255 or 65535"):
        images.load_picture(path)


def test_dark_sixteen_bit_picture_stays_dark(tmp_path):
    path = write(tmp_path / "a.png", Image.new("I;16", (4, 3), 200))
    assert images.load_picture(path).max() == 1


def test_cmyk_jpeg(tmp_path):
    path = write(tmp_path / "a.jpg", Image.new("RGB", (16, 16), RED).convert("CMYK"))
    assert np.abs(images.load_picture(path).astype(int) - RED).max() <= 6


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / "a.png", image, exif=exif)
    pixels = images.load_picture(path)
    assert pixels.shape == (6, 4, 3)
    assert pixels[0, 3].tolist() == [255, 255, 255]
    assert images.picture_size(path) == (6, 4)


def exif_with(tag: int, kind: int, value: bytes) -> bytes:
    """EXIF data that turns a picture by a quarter, and holds another entry of a given type."""
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), struct.pack("<HHI4s", tag, kind, 1, value)]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [(0x011A, 2, b"7\0\0\0"), (0x011A, 1, b"H\0\0\0"), (0x0132, 11, struct.pack("<f", 1.5)),
     (0x0100, 9, struct.pack("<i", -5))],
)  # fmt: skip
def test_mistyped_exif_data_does_not_matter(tmp_path, tag, kind, value):
    path = write(tmp_path / "a.jpg", Image.new("RGB", (24, 16), "gray"), exif=exif_with(tag, kind, value))
    assert images.load_picture(path).shape[:2] == images.picture_size(path) == (24, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = write(tmp_path / "a.png", Image.fromarray(noise), exif=exif)
    assert np.array_equal(images.load_picture(path), np.array(ImageOps.exif_transpose(Image.open(path))))


def test_first_frame_of_several(tmp_path):
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert images.load_picture(tmp_path / "a.tif")[0, 0].tolist() == [255, 0, 0]


def huge_png(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    return path


def bad_file(kind: str, folder: Path) -> tuple[Path, str]:
    path = folder / "bad.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    if kind == "missing":
        return path, "no such file"
    if kind == "folder":
        path.mkdir()
        return path, "no such file"
    if kind == "empty":
        path.touch()
        return path, "empty"
    if kind == "text":
        path.write_text("hello")
        return path, "not a picture"
    if kind == "truncated_png":
        write(path, Image.fromarray(noise))
        path.write_bytes(path.read_bytes()[:2000])
        return path, "cannot be decoded"
    if kind == "truncated_jpeg":
        path = write(folder / "bad.jpg", Image.fromarray(noise))
        path.write_bytes(path.read_bytes()[:1000])
        return path, "cannot be decoded"
    if kind == "truncated_webp":
        path = write(folder / "bad.webp", Image.fromarray(noise))
        path.write_bytes(path.read_bytes()[:500])
        return path, "bad.webp"
    if kind == "not_finite":
        path = write(folder / "bad.tif", Image.new("F", (3, 3), float("nan")))
        return path, "finite"
    return huge_png(path, *{"huge": (12_000, 11_000), "bomb": (60_000, 60_000)}[kind]), "larger than 100 mega"


@pytest.mark.parametrize(
    "kind",
    ["missing", "folder", "empty", "text", "truncated_png", "truncated_jpeg", "truncated_webp", "not_finite",
     "huge", "bomb"],
)  # fmt: skip
def test_bad_file_costs_one_line_with_its_name(tmp_path, kind):
    path, message = bad_file(kind, tmp_path)
    with pytest.raises(DataError) as caught:
        images.load_picture(path)
    text = str(caught.value)
    assert message in text
    assert path.name in text
    assert "\n" not in text


def test_header_check_finds_what_is_no_picture(tmp_path):
    for kind in ("missing", "empty", "text", "huge"):
        path, message = bad_file(kind, tmp_path)
        with pytest.raises(DataError, match=message):
            images.picture_size(path)


def test_list_is_nested_sorted_and_skips_other_files(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", "notes.txt", ".hidden.png", ".cache/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in images.list_pictures(tmp_path)]
    assert found == ["a.webp", "b/1.jpg", "b/2.PNG"]


def test_what_a_folder_search_passes_over_is_said_once(tmp_path, caplog):
    for name in (
        "photos/a.png",
        "photos/a.json",
        "photos/b.bmp",
        "photos/c.BMP",
        "photos/.d.bmp",
        "away/e.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "away")
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere")
    for _ in range(2):
        assert [path.name for path in images.list_pictures(tmp_path / "photos")] == ["a.png"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "passed over 2 .bmp, 1 broken link, 1 linked folder; data.images takes .png .jpg" in line


def test_two_of_one_name_are_refused_by_name(tmp_path):
    for name in ("a/b.png", "a/b.jpg", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"--truth: .*a/b\.jpg and .*a/b\.png have the same name"):
        images.name_pictures(tmp_path, key="--truth")
    (tmp_path / "a" / "b.jpg").unlink()
    assert list(images.name_pictures(tmp_path, key="--truth")) == ["a/b", "b"]


def test_list_names_the_key(tmp_path):
    with pytest.raises(DataError, match=r"no such folder.*data\.images"):
        images.list_pictures(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no pictures.*data\.pairs"):
        images.list_pictures(tmp_path, key="data.pairs")


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_save_and_load_again(tmp_path, suffix):
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None], (1, 16, 3))
    images.save_picture(tmp_path / "new" / f"a.{suffix}", ramp)
    loaded = images.load_picture(tmp_path / "new" / f"a.{suffix}")
    assert np.abs(loaded.astype(int) - ramp).max() <= (0 if suffix in ("png", "tif") else 8)


def test_save_refuses_what_it_cannot_write(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(DataError, match=r"unknown picture format.*\.png"):
        images.save_picture(tmp_path / "a.xyz", pixels)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        images.save_picture(tmp_path / "file" / "a.png", pixels)


def test_half_a_picture_is_never_left(tmp_path):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot be written"):
        images.save_picture(tmp_path / "a.webp", np.zeros((20_000, 1, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_resize_sizes_antialias_and_copy():
    rng = np.random.default_rng(0)
    checker = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    assert np.abs(images.resize(checker, 16, 8).astype(int) - 128).max() <= 3
    noise = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    noise.flags.writeable = False
    assert images.resize(noise, 5, 30).shape == (5, 30, 3)
    same = images.resize(noise, 9, 11)
    assert np.array_equal(same, noise)
    assert same is not noise
