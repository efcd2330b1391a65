"""Pictures in cells of a table: what may stand for one, read as a file's content and decoded where it is needed."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from configs.paths import expand
from rl.data.images import decode_picture
from rl.errors import ConfigError, DataError
from rl.types import EncodedPicture, Pixels, Prompt

_DATA_URL = "data:"
_STRUCT = {"bytes", "path"}
"""Keys of a picture in the files of ``datasets``."""
_HOLDING = ("bytes", "image", "path")
"""Keys that hold one, there and in messages for Qwen's tools; the first that is not None counts."""


def is_picture(cell: Any) -> bool:
    """Whether a cell can be nothing but a picture; a path or data URL is text, and must be named as a picture's."""
    return isinstance(cell, bytes) or (isinstance(cell, dict) and {"bytes"} <= cell.keys() <= _STRUCT)


def encoded(cell: Any, *, folder: Path, origin: str) -> EncodedPicture:
    """Read a picture's file, without decoding it.

    Args:
        cell: ``{bytes, path}``, ``{image}``, bytes, a path, or a data URL in base64.
        folder: Where relative paths start from.
        origin: File, row and column.

    Raises:
        DataError: If it is none of these, or the file is not there.
    """
    if isinstance(cell, dict):
        cell = next((cell[key] for key in _HOLDING if cell.get(key) is not None), None)
    if isinstance(cell, bytes):
        return EncodedPicture(content=cell, origin=origin)
    if not isinstance(cell, str):
        want = "a path, bytes, {bytes, path} or a data URL"
        raise DataError(
            f"{origin}: holds a {type(cell).__name__} in a picture's place, want {want}; mend the row"
        )
    if cell.startswith(_DATA_URL):
        return EncodedPicture(content=_from_url(cell, origin), origin=origin)
    if cell.startswith(("http://", "https://")):
        raise DataError(f"{origin}: {cell} is not fetched; download it and name the file")
    try:
        path = folder / expand(cell.removeprefix("file://"))
    except ConfigError as error:
        raise DataError(f"{origin}: {error}") from error
    try:
        return EncodedPicture(content=path.read_bytes(), origin=f"{origin} ({path})")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(
            f"{origin}: {path} cannot be read ({reason}); set data.image_dir to where pictures lie"
        ) from error


def decoded(prompt: Prompt[Any]) -> Prompt[Pixels]:
    """Return a prompt with pixels in the place of encoded pictures.

    Raises:
        DataError: If a picture cannot be decoded; names its origin.
    """

    def pixels(picture: Any) -> Pixels:
        if isinstance(picture, EncodedPicture):
            return decode_picture(picture.content, name=picture.origin)
        kept: Pixels = picture
        return kept

    return prompt.with_pictures(pixels)


def _from_url(url: str, origin: str) -> bytes:
    header, comma, data = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise DataError(f"{origin}: want data:image/...;base64,... in a data URL, got {url[:40]!r}")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise DataError(f"{origin}: the data URL is no base64 ({error}); write the picture again") from error
