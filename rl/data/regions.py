"""Pictures that are said in a few words: regions of one colour each, one painted over the other.

A table's column ``regions`` holds a list of ``{"colour": "red", "box": [left, top, right, bottom]}``, later ones over
earlier ones. A colour is a name of ``COLOURS`` or ``[red, green, blue]`` in 0..255, a box in shares of width and
height, so that the same words hold for pictures of any size. Rewards measure by it, and a cold start learns from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.suggest import suggest
from rl.types import Pixels

REGIONS = "regions"
"""Column of a table, and reference value of its prompts."""
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 220, 60),
    "orange": (245, 140, 30),
    "purple": (130, 50, 170),
    "pink": (245, 150, 190),
    "brown": (120, 75, 40),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
"""RGB, 0..255."""
SWAPPED, MISREAD = 0.2, 0.2
"""Share of rough pictures whose colours change places, and of their regions that get any colour."""
OFF, UNEVEN = 25.0, 20.0
"""Deviations of a rough region's colour, and of its cells, grey levels."""
GRAIN = 8
"""Edge of those cells, pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A box of one colour."""

    colour: tuple[int, int, int]
    """RGB, 0..255."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom: shares of width and height, 0..1."""


def parse_regions(value: Any) -> tuple[Region, ...]:
    """Read a cell of the column.

    Raises:
        ValueError: If it is no such list; says what is wrong with which region.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"regions: want a list of {{colour: ..., box: [...]}}, got {value!r}")
    return tuple(_region(entry, f"regions[{place}]") for place, entry in enumerate(value))


def _region(entry: Any, where: str) -> Region:
    if not isinstance(entry, Mapping) or set(entry) != {"colour", "box"}:
        raise ValueError(f"{where}: want {{colour: ..., box: [left, top, right, bottom]}}, got {entry!r}")
    return Region(colour=_colour(entry["colour"], f"{where}.colour"), box=_box(entry["box"], f"{where}.box"))


def _colour(value: Any, where: str) -> tuple[int, int, int]:
    if isinstance(value, str):
        if value not in COLOURS:
            raise ValueError(f"{where}: no colour {value!r}{suggest(value, COLOURS)}")
        return COLOURS[value]
    if not _are_numbers(value, 3) or not all(0 <= part <= 255 for part in value):
        raise ValueError(f"{where}: want a name or [red, green, blue] in 0..255, got {value!r}")
    red, green, blue = value
    return int(red), int(green), int(blue)


def _box(value: Any, where: str) -> tuple[float, float, float, float]:
    if not _are_numbers(value, 4) or not (0 <= value[0] < value[2] <= 1 and 0 <= value[1] < value[3] <= 1):
        raise ValueError(f"{where}: want left < right and top < bottom in 0..1, got {value!r}")
    left, top, right, bottom = value
    return left, top, right, bottom


def _are_numbers(value: Any, num: int) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == num
        and all(isinstance(part, int | float) and not isinstance(part, bool) for part in value)
    )


def region_map(regions: Sequence[Region], height: int, width: int) -> NDArray[np.int64]:
    """Say which region is seen at each pixel, ``[height, width]``; -1 where none is."""
    seen = np.full((height, width), -1)
    for index, region in enumerate(regions):
        left, top, right, bottom = region.box
        rows, columns = (
            slice(round(first * size), round(last * size))
            for first, last, size in ((top, bottom, height), (left, right, width))
        )
        seen[rows, columns] = index
    return seen


def paint_roughly(regions: Sequence[Region], height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Paint regions as somebody would who is careless with words: what a cold start learns from, and rewards improve.

    Some pictures have their colours in each other's places, some regions any colour; all colours are off, and no region
    is even (``SWAPPED`` to ``GRAIN``). Pixels of no region are grey.

    Returns:
        ``uint8[height, width, 3]``.
    """
    colours = np.array([region.colour for region in regions], dtype=np.float64)
    if rng.random() < SWAPPED:
        colours = np.roll(colours, 1, axis=0)
    others = np.array(list(COLOURS.values()))[rng.integers(len(COLOURS), size=len(colours))]
    colours = np.where(rng.random((len(colours), 1)) < MISREAD, others, colours)
    colours += rng.normal(0.0, OFF, colours.shape)
    grey = np.full((1, 3), 127.5)
    picture = np.concatenate([colours, grey])[region_map(regions, height, width)]
    cells = (-(-height // GRAIN), -(-width // GRAIN), 3)
    grain = rng.normal(0.0, UNEVEN, cells).repeat(GRAIN, axis=0).repeat(GRAIN, axis=1)
    pixels: Pixels = (picture + grain[:height, :width]).round().clip(0, 255).astype(np.uint8)
    return pixels
