"""Tiles cover everything and blend back to what they were cut from."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.restoration.tiling import Tile, blend, cut_tiles, feather, plan_tiles


@st.composite
def layouts(draw):
    tile = draw(st.integers(1, 16))
    return draw(st.integers(1, 50)), draw(st.integers(1, 50)), tile, draw(st.integers(0, tile - 1))


def random_photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@settings(deadline=None)
@given(layouts())
def test_every_pixel_is_covered_and_neighbours_overlap(layout):
    height, width, size, overlap = layout
    tiles = plan_tiles(height, width, size, overlap)
    covered = np.zeros((max(height, size), max(width, size)), dtype=bool)
    for tile in tiles:
        assert tile.size == size
        covered[tile.top : tile.top + size, tile.left : tile.left + size] = True
        assert tile.top + size <= covered.shape[0]
        assert tile.left + size <= covered.shape[1]
    assert covered.all()
    tops = sorted({tile.top for tile in tiles})
    assert all(above + size - below >= overlap for above, below in pairwise(tops))
    assert len(set(tiles)) == len(tiles)


@settings(deadline=None, max_examples=60)
@given(layouts(), st.integers(1, 4))
def test_tiles_of_one_picture_give_it_back(layout, scale):
    height, width, size, overlap = layout
    photo = random_photo(height, width)
    tiles = plan_tiles(height, width, size, overlap)
    enlarged = [tile.repeat(scale, axis=0).repeat(scale, axis=1) for tile in cut_tiles(photo, tiles)]
    want = photo.repeat(scale, axis=0).repeat(scale, axis=1)
    np.testing.assert_array_equal(blend(tiles, enlarged, height, width), want)


@settings(deadline=None)
@given(layouts(), st.integers(0, 255))
def test_blend_stays_within_what_was_painted(layout, seed):
    height, width, size, overlap = layout
    tiles = plan_tiles(height, width, size, overlap)
    painted = [random_photo(size, size, seed + index) for index in range(len(tiles))]
    got = blend(tiles, painted, height, width)
    assert got.shape == (height, width, 3)
    assert got.min() >= min(tile.min() for tile in painted)
    assert got.max() <= max(tile.max() for tile in painted)


def test_a_seam_fades_from_one_tile_to_the_next():
    tiles = plan_tiles(16, 24, 16, 8)
    dark, light = np.full((16, 16, 3), 50, np.uint8), np.full((16, 16, 3), 200, np.uint8)
    row = blend(tiles, [dark, light], 16, 24)[8, :, 0].astype(int)
    assert (row[:8] == 50).all()
    assert (row[16:] == 200).all()
    assert (np.diff(row[7:17]) > 0).all()
    assert np.diff(row).max() < 30


def test_a_small_photo_is_reflected_then_cropped():
    photo = random_photo(3, 5)
    tiles = plan_tiles(3, 5, 8, 2)
    assert tiles == [Tile(top=0, left=0, size=8, overlap=2)]
    cut = cut_tiles(photo, tiles)[0]
    np.testing.assert_array_equal(cut[3, :5], photo[1])
    assert blend(tiles, [cut], 3, 5).shape == (3, 5, 3)


@given(st.integers(1, 40), st.integers(0, 40))
def test_weights_are_positive_and_symmetric(size, overlap):
    profile = feather(size, overlap)
    assert profile.min() > 0
    assert profile.max() <= 1
    np.testing.assert_array_equal(profile, profile[::-1])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="cannot tile"):
        plan_tiles(8, 8, 4, 4)
    tiles = plan_tiles(8, 8, 4, 0)
    cut = cut_tiles(random_photo(8, 8), tiles)
    with pytest.raises(ValueError, match="4 tiles and 3 pictures"):
        blend(tiles, cut[:3], 8, 8)
    with pytest.raises(ValueError, match="not 1 x"):
        blend(tiles, [*cut[:3], random_photo(4, 5)], 8, 8)
    with pytest.raises(ValueError, match="uncovered"):
        blend(tiles[:3], cut[:3], 8, 8)
