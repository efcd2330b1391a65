"""Reads, writes and scales picture files; whatever a file holds becomes ``uint8[H, W, 3]`` RGB.

Knows nothing of degradation, tags or prompts. Every failure is a one-line ``DataError`` that names the
file and says what to do.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rl.errors import DataError
from rl.types import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""File name endings taken for pictures, in any letter case."""
MAX_PIXELS = 100_000_000
"""Most pixels a picture may have: 300 MB once decoded."""

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
    path = Path(path)
    with _open(path) as image:
        try:
            is_rotated = _orientation(image) != 1
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image) if is_rotated else image)
        except _DECODE_ERRORS as error:
            raise DataError(
                f"{path}: cannot be decoded ({_first_line(error)}); replace or remove it"
            ) from error


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
                f"{path}: broken EXIF data ({_first_line(error)}); replace or remove it"
            ) from error
        width, height = image.size
        return (width, height) if turned else (height, width)


def list_pictures(folder: str | Path, *, key: str = "data.images") -> list[Path]:
    """Find all pictures in a folder and its subfolders, sorted by path; hidden ones are left out.

    Args:
        folder: Where to look.
        key: Configuration key that the error message names.

    Raises:
        DataError: If the folder is missing or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set {key} to a folder of pictures")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise DataError(f"{folder}: no pictures ({' '.join(SUFFIXES)}); set {key} to a folder of pictures")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def save_picture(path: str | Path, pixels: Pixels) -> None:
    """Write a picture; the suffix decides the format (lossless but for JPEG and WebP, quality 95).

    Raises:
        DataError: If the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: unknown picture format; end the name in one of {' '.join(SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=95)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({_first_line(error)})") from error


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(path)) from error
    except _DECODE_ERRORS as error:
        raise DataError(
            f"{path}: not a picture in a format we read; convert it to 8-bit PNG or remove it"
        ) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise DataError(_too_large(path))
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation in the header, 1..8; a PNG's EXIF data after its pixels is not read."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(0x0112, 1))


def _too_large(path: Path) -> str:
    return f"{path}: larger than {MAX_PIXELS // 10**6} megapixels; scale it down or cut it into parts"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _to_rgb(image: Image.Image) -> Pixels:
    """Bring any PIL mode to 8-bit RGB."""
    if image.mode.startswith(("I", "F")):
        gray = _to_eight_bit(np.asarray(image))
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _to_eight_bit(values: NDArray[Any]) -> np.ndarray:
    """Scale 16/32-bit integers or floats ``[H, W]`` to uint8; the range is told from type and maximum."""
    if not np.all(np.isfinite(values)):
        raise ValueError("pixel values that are not finite")
    highest = float(values.max())
    if np.issubdtype(values.dtype, np.floating):
        top = 1.0 if highest <= 1.0 else 255.0
    else:
        top = 65535.0 if values.dtype == np.uint16 or highest > 255 else 255.0
    return np.clip(np.rint(values.astype(np.float64) * (255.0 / top)), 0, 255).astype(np.uint8)
