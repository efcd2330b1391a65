"""Picture files: reading, writing, scaling; whatever a file holds becomes ``uint8[H, W, 3]`` RGB.

Knows nothing of degradation, tags or prompts. Every failure is a one-line ``DataError`` that names the
file and says what to do.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.errors import first_line
from rl.data.once import say_once
from rl.errors import DataError
from rl.types import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""File name endings taken for pictures, in any letter case."""
MAX_PIXELS = 100_000_000
"""Most pixels a picture may have: 300 MB once decoded."""

FLOAT_TOPS = (1.0, 255.0, 65535.0)
"""What white can be in a picture of floats."""
OVERSHOOT = 2.0
"""Floats may exceed white by this factor (highlights, ringing of a filter): they are cut off there."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by EXIF orientation. Nothing else of the EXIF data is read: it may be broken."""

_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def load_picture(path: str | Path) -> Pixels:
    """Decode one picture file of any mode.

    Alpha is laid on white, EXIF rotation is applied, 16-bit and float values are scaled to 8 bit, and
    of several frames the first is taken.

    Args:
        path: PNG, JPEG, WebP or TIFF file.

    Returns:
        A new array ``uint8[H, W, 3]``.

    Raises:
        DataError: If the file is missing, empty, truncated, too large or not a picture.
    """
    return _decode(_open(Path(path)), str(path))


def decode_picture(content: bytes, *, name: str) -> Pixels:
    """Decode what a picture file holds; see ``load_picture``.

    Args:
        content: Of the file.
        name: What messages call it.

    Raises:
        DataError: If it is empty, truncated, too large or not a picture.
    """
    if not content:
        raise DataError(f"{name}: the picture is empty (0 bytes); replace or remove it")
    return _decode(_header(io.BytesIO(content), name), name)


def picture_size(path: str | Path) -> tuple[int, int]:
    """Read height and width (as seen after EXIF rotation) from the header, without decoding.

    Raises:
        DataError: If the file is missing, empty, too large or not a picture.
    """
    path = Path(path)
    with _open(path) as image:
        try:
            turned = _orientation(image) in (5, 6, 7, 8)
        except _DECODE_ERRORS as error:
            raise DataError(
                f"{path}: broken EXIF data ({first_line(error)}); replace or remove it"
            ) from error
        width, height = image.size
        return (width, height) if turned else (height, width)


def list_pictures(folder: str | Path, *, key: str = "data.images", skip: Path | None = None) -> list[Path]:
    """Find all pictures in a folder and its subfolders, sorted by path; hidden ones are left out.

    What else lies there is passed over; one line in the log says how much of what kind, once a process.

    Args:
        folder: Where to look.
        key: Configuration key that the error message names.
        skip: A folder in it that is left out.

    Raises:
        DataError: If the folder is missing or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set {key} to a folder of pictures")
    pictures, others = list[Path](), Counter[str]()
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if skip is not None and path.resolve().is_relative_to(skip.resolve()):
            continue
        if path.suffix.lower() in SUFFIXES and path.is_file():
            pictures.append(path)
        elif kind := _kind_passed_over(path):
            others[kind] += 1
    if others:
        kinds = ", ".join(f"{num} {kind}" for kind, num in sorted(others.items()))
        say_once(f"{folder}: passed over {kinds}; {key} takes {' '.join(SUFFIXES)}", logging.WARNING)
    if not pictures:
        raise DataError(f"{folder}: no pictures ({' '.join(SUFFIXES)}); set {key} to a folder of pictures")
    return sorted(pictures, key=lambda path: path.relative_to(folder).parts)


def name_pictures(folder: str | Path, *, key: str, skip: Path | None = None) -> dict[str, Path]:
    """Map names (paths in the folder, without suffix) to its pictures, in order; arguments as ``list_pictures``.

    Raises:
        DataError: If two pictures differ in their suffix only; and as ``list_pictures``.
    """
    named: dict[str, Path] = {}
    for path in list_pictures(folder, key=key, skip=skip):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if (other := named.setdefault(name, path)) != path:
            raise DataError(f"{key}: {other} and {path} have the same name; rename one of them")
    return named


def _kind_passed_over(path: Path) -> str:
    """Say what kind of thing is no picture of ours; nothing of sidecars and of folders, which are searched."""
    if path.is_symlink() and (path.is_dir() or not path.exists()):
        return "linked folder" if path.is_dir() else "broken link"
    if path.is_dir() or path.suffix.lower() == ".json":
        return ""
    return path.suffix.lower() or "without a suffix"


def save_picture(path: str | Path, pixels: Pixels) -> None:
    """Write a picture, whole or not at all; the suffix decides the format (lossless but for JPEG and WebP, quality 95).

    Raises:
        DataError: If the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: unknown picture format; end the name in one of {' '.join(SUFFIXES)}")
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(partial, quality=95)
        partial.replace(path)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({first_line(error)})") from error


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale a picture with a bicubic filter that is widened when scaling down (antialias).

    Returns:
        ``uint8[height, width, 3]``; a copy where the size is kept.
    """
    if pixels.shape[:2] == (height, width):
        return pixels.copy()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


def _open(path: Path) -> Image.Image:
    """Open a file and check its header."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); replace or remove it")
    return _header(path, str(path))


def _header(file: Path | BinaryIO, name: str) -> Image.Image:
    """Open a picture as far as its header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(name)) from error
    except _DECODE_ERRORS as error:
        raise DataError(
            f"{name}: not a picture in a format we read; convert it to 8-bit PNG or remove it"
        ) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise DataError(_too_large(name))
    return image


def _decode(opened: Image.Image, name: str) -> Pixels:
    with opened as image:
        try:
            turn = TURNS.get(_orientation(image))
            image.load()
            return _to_rgb(image if turn is None else image.transpose(turn))
        except _DECODE_ERRORS as error:
            raise DataError(
                f"{name}: cannot be decoded ({first_line(error)}); replace or remove it"
            ) from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation in the header, 1..8; a PNG's EXIF data after its pixels is not read."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(0x0112, 1))


def _bits(image: Image.Image) -> int:
    """Return the bits of a value in a TIFF file; 0 for other formats."""
    tags = getattr(image, "tag_v2", {})
    return int(np.max(tags.get(258, 0)))


def _too_large(name: str) -> str:
    return f"{name}: larger than {MAX_PIXELS // 10**6} megapixels; scale it down or cut it into parts"


def _to_rgb(image: Image.Image) -> Pixels:
    """Bring any PIL mode to 8-bit RGB."""
    if image.mode.startswith(("I", "F")):
        gray = _to_eight_bit(np.asarray(image), num_bits=_bits(image))
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _to_eight_bit(values: NDArray[Any], *, num_bits: int) -> np.ndarray:
    """Scale integers of more than 8 bits, or floats, ``[H, W]`` to uint8.

    White is told from the type, and from the maximum where the type leaves it open: floats, and what PIL widens to
    32 bits.

    Args:
        values: As PIL decoded them, of either byte order.
        num_bits: Of a value in the file; 0 where the file does not say.

    Raises:
        ValueError: If no white fits.
    """
    if not np.all(np.isfinite(values)):
        raise ValueError("pixel values that are not finite")
    lowest, highest = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        top = next((top for top in FLOAT_TOPS if highest <= OVERSHOOT * top), None)
    elif values.dtype.itemsize == 2:
        top = 65535.0
    elif num_bits == 16:  # signed
        top = 32767.0
    else:
        top = next((top for top in FLOAT_TOPS[1:] if highest <= top), None)
    if top is None or lowest < -OVERSHOOT * top:
        raise ValueError(f"pixel values from {lowest:g} to {highest:g}, want 0 to 1, 255 or 65535")
    return np.clip(np.rint(values.astype(np.float64) * (255.0 / top)), 0, 255).astype(np.uint8)
