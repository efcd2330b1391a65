"""Tiles of a large photo: cut to the size a picture policy was trained on, and blended when painted.

Pure numpy. Tiles lie on the grid of the *degraded* photo; painted tiles may be any whole number of times
larger, and the blend follows. A photo smaller than a tile is padded by reflection and cropped after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl.types import Floats, Pixels, check_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A square of the (padded) degraded photo."""

    top: int
    left: int
    size: int
    """Edge, degraded pixels."""
    overlap: int
    """Width over which it fades into a neighbour, degraded pixels."""


def plan_tiles(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Cover a photo with equal tiles, evenly spread.

    Args:
        height: Degraded photo, pixels.
        width: Degraded photo, pixels.
        tile: Edge of a tile, pixels.
        overlap: Least overlap of neighbours, pixels; the spread may make it larger.

    Returns:
        Tiles row by row. Where the photo is smaller than ``tile``, they reach into its padding.

    Raises:
        ValueError: If a size is not positive or ``overlap`` is outside ``0 .. tile - 1``.
    """
    if min(height, width, tile) < 1 or not 0 <= overlap < tile:
        raise ValueError(f"cannot tile {height}x{width} with tile={tile}, overlap={overlap}")
    return [
        Tile(top=top, left=left, size=tile, overlap=overlap)
        for top in _starts(height, tile, overlap)
        for left in _starts(width, tile, overlap)
    ]


def cut_tiles(photo: Pixels, tiles: Sequence[Tile]) -> list[Pixels]:
    """Return the pixels of each tile, reflecting the photo at its lower and right border where needed."""
    check_pixels(photo, name="cut_tiles")
    height, width = photo.shape[:2]
    bottom = max(max(tile.top + tile.size for tile in tiles) - height, 0)
    right = max(max(tile.left + tile.size for tile in tiles) - width, 0)
    padded = np.pad(photo, ((0, bottom), (0, right), (0, 0)), mode="reflect")
    return [
        padded[tile.top : tile.top + tile.size, tile.left : tile.left + tile.size].copy() for tile in tiles
    ]


def blend(tiles: Sequence[Tile], pictures: Sequence[Pixels], height: int, width: int) -> Pixels:
    """Join painted tiles into one picture with feathered seams.

    Args:
        tiles: From ``plan_tiles``.
        pictures: One a tile, ``uint8[scale * size, scale * size, 3]`` with one whole ``scale`` for all.
        height: Degraded photo, pixels.
        width: Degraded photo, pixels.

    Returns:
        ``uint8[scale * height, scale * width, 3]``. Weights are positive and sum to 1 at every pixel, so
        tiles cut from one picture give that picture back.

    Raises:
        ValueError: If counts or sizes do not fit, or a pixel is covered by no tile.
    """
    scale = _scale(tiles, pictures)
    rows = max(height, *(tile.top + tile.size for tile in tiles)) * scale
    columns = max(width, *(tile.left + tile.size for tile in tiles)) * scale
    total = np.zeros((rows, columns, 3), dtype=np.float32)
    weight = np.zeros((rows, columns, 1), dtype=np.float32)
    for tile, picture in zip(tiles, pictures, strict=True):
        profile = feather(tile.size * scale, tile.overlap * scale)
        mask = (profile[:, None] * profile[None, :])[:, :, None]
        top, left, edge = tile.top * scale, tile.left * scale, tile.size * scale
        total[top : top + edge, left : left + edge] += mask * picture
        weight[top : top + edge, left : left + edge] += mask
    total, weight = total[: height * scale, : width * scale], weight[: height * scale, : width * scale]
    if not np.all(weight > 0):
        raise ValueError(f"blend: the tiles leave pixels of the {height}x{width} photo uncovered")
    joined: Pixels = np.rint(total / weight).astype(np.uint8)
    return joined


def feather(size: int, overlap: int) -> Floats:
    """Return the weight profile of one edge, ``float32[size]``: a ramp, a plateau of 1, a ramp."""
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    profile: Floats = np.minimum(distance / max(overlap, 0.5), 1.0).astype(np.float32)
    return profile


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along one edge: the fewest that overlap enough, evenly spread."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def _scale(tiles: Sequence[Tile], pictures: Sequence[Pixels]) -> int:
    if not tiles or len(tiles) != len(pictures):
        raise ValueError(f"blend: {len(tiles)} tiles and {len(pictures)} pictures")
    scale = max(int(pictures[0].shape[0]) // tiles[0].size, 1)
    for tile, picture in zip(tiles, pictures, strict=True):
        check_pixels(picture, name="blend")
        if picture.shape[:2] != (tile.size * scale, tile.size * scale):
            raise ValueError(
                f"blend: a picture is {picture.shape[:2]}, not {scale} x the {tile.size} px tile"
            )
    return scale
