"""Photographs on disk: the eight of scikit-image's wheel, a folder with sidecars, or LR/HR pairs.

Knows files and sizes, not crops or degradation. Headers and sidecars of all files are checked when the
list is made; pixels are decoded when they are first used, and a few photographs are remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from rl.data.images import load_picture, name_pictures, picture_size
from rl.errors import DataError
from rl.restoration.sidecar import Sidecar, load_sidecar
from rl.seeding import derive_seed
from rl.types import Pixels

BUILTIN = (
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "astronaut.png",
    "ihc.png",
    "retina.jpg",
    "hubble_deep_field.jpg",
)
"""Colour photographs of scikit-image's wheel. Whole photographs are held out in this order: the first
two are natural, detailed everywhere, and their subjects are in no other one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One photograph that can be trained on, e.g. ``coffee``."""

    name: str
    """Unique: the path in its folder without suffix."""
    path: Path
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    sidecar: Sidecar

    @property
    def pixels(self) -> Pixels:
        """The decoded photograph ``uint8[height, width, 3]``, read-only."""
        return _decoded(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A real low-resolution photograph, with its high-resolution twin where there is one."""

    name: str
    low: Path
    high: Path | None
    height: int
    """Of ``low``, pixels."""
    width: int
    """Of ``low``, pixels."""

    @property
    def low_pixels(self) -> Pixels:
        """The decoded input, read-only."""
        return _decoded(self.low)

    @property
    def high_pixels(self) -> Pixels | None:
        """The decoded ground truth, read-only, or None."""
        return None if self.high is None else _decoded(self.high)


def builtin_photos() -> list[Photo]:
    """List scikit-image's photographs with our sidecars, in held-out order.

    Raises:
        DataError: If scikit-image is not installed or its wheel lacks the files.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError("data.images=builtin: scikit-image is not installed; install it or give a folder")
    folder = Path(spec.origin).parent / "data"
    sidecars = Path(str(files("rl.restoration"))) / "builtin"
    return [
        _photo(folder / name, sidecars / f"{Path(name).stem}.json", name=Path(name).stem) for name in BUILTIN
    ]


def folder_photos(folder: str | Path) -> list[Photo]:
    """List a folder's photographs, each with a sidecar ``<name>.json`` beside it, in held-out order.

    The order depends on names only, so the same photographs are held out in every run.

    Raises:
        DataError: If the folder has no pictures, two differ in suffix only, or a sidecar is missing.
    """
    folder = Path(folder)
    paths = name_pictures(folder, key="data.images")
    photos = [_photo(path, path.with_suffix(".json"), name=name) for name, path in paths.items()]
    return sorted(photos, key=lambda photo: derive_seed("holdout", photo.name))


def pair_photos(folder: str | Path, *, scale: int) -> list[Pair]:
    """List real photographs to restore.

    ``folder`` has ``LR`` and ``HR`` subfolders of equal names, or ``LR`` alone, or it is itself a folder
    of low-resolution pictures (RealLQ250's layout); suffixes may differ between ``LR`` and ``HR``.

    Args:
        folder: Where they are (``data.pairs``).
        scale: Every ``HR`` picture is exactly this many times as large as its ``LR`` twin.

    Raises:
        DataError: If a twin is missing or has the wrong size.
    """
    low_folder, high_folder = Path(folder) / "LR", Path(folder) / "HR"
    if high_folder.is_dir() and not low_folder.is_dir():
        raise DataError(f"{folder}: has HR but no LR; put the low-resolution pictures into {low_folder}")
    lows = name_pictures(low_folder if low_folder.is_dir() else folder, key="data.pairs")
    highs = name_pictures(high_folder, key="data.pairs") if high_folder.is_dir() else {}
    if highs and lows.keys() != highs.keys():
        name = sorted(lows.keys() ^ highs.keys())[0]
        lacking = "HR" if name in lows else "LR"
        raise DataError(f"{folder}: {name!r} is missing in {lacking}; LR and HR must hold the same names")
    return [_pair(name, lows[name], highs.get(name), scale) for name in lows]


def _pair(name: str, low: Path, high: Path | None, scale: int) -> Pair:
    height, width = picture_size(low)
    if high is not None and picture_size(high) != (height * scale, width * scale):
        got = "x".join(map(str, picture_size(high)[::-1]))
        raise DataError(
            f"{high}: is {got} but {scale} x its LR twin is {width * scale}x{height * scale}; "
            "crop it or set scale to the pairs' own"
        )
    return Pair(name=name, low=low, high=high, height=height, width=width)


def _photo(path: Path, sidecar: Path, *, name: str) -> Photo:
    height, width = picture_size(path)
    loaded = load_sidecar(sidecar, picture=path)
    return Photo(name=name, path=path, height=height, width=width, sidecar=loaded)


@lru_cache(maxsize=16)
def _decoded(path: Path) -> Pixels:
    pixels = load_picture(path)
    pixels.flags.writeable = False
    return pixels
