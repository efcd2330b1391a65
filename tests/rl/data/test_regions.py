"""Regions of one colour: how a table's cell is read, what is seen of them, and how rough pictures are painted."""

import numpy as np
import pytest

from rl.data.regions import COLOURS, paint_roughly, parse_regions, region_map
from rl.data.tables import open_table

GROUND = {"colour": "white", "box": [0, 0, 1, 1]}


def test_later_regions_lie_over_earlier_ones_at_any_size():
    square = {"colour": [1, 2, 3], "box": [0.25, 0.5, 0.75, 1]}
    ground, over = parse_regions([GROUND, square])
    assert (ground.colour, over.colour) == (COLOURS["white"], (1, 2, 3))
    assert region_map([ground, over], 2, 4).tolist() == [[0, 0, 0, 0], [0, 1, 1, 0]]
    assert (region_map([ground, over], 20, 8) == 1).sum() == 10 * 4
    assert region_map([over], 2, 4)[0].tolist() == [-1, -1, -1, -1]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("red", r"regions: want a list"),
        ([], r"regions: want a list"),
        (
            [GROUND, {"colour": "red"}],
            r"regions\[1\]: want \{colour: \.\.\., box: \[left, top, right, bottom\]\}",
        ),
        ([{**GROUND, "colour": "gren"}], r"regions\[0\]\.colour: no colour 'gren'; did you mean green\?"),
        ([{**GROUND, "colour": [0, 0, 256]}], r"regions\[0\]\.colour: want a name or \[red, green, blue\]"),
        ([{**GROUND, "colour": [0, True, 0]}], r"regions\[0\]\.colour: want a name"),
        ([{**GROUND, "box": [0, 0, 1]}], r"regions\[0\]\.box: want left < right"),
        ([{**GROUND, "box": [0.5, 0, 0.5, 1]}], r"regions\[0\]\.box: want left < right"),
        ([{**GROUND, "box": [0, 0, 1, 1.5]}], r"regions\[0\]\.box: .*in 0\.\.1"),
    ],
)
def test_a_cell_that_says_no_regions_is_refused_by_its_place(cell, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        parse_regions(cell)


def test_rough_pictures_mean_what_is_said_and_are_seldom_it():
    regions = parse_regions(
        [{"colour": "red", "box": [0, 0, 0.5, 1]}, {"colour": "blue", "box": [0.5, 0, 1, 1]}]
    )
    rng = np.random.default_rng(0)
    pictures = np.stack([paint_roughly(regions, 16, 32, rng) for _ in range(300)]).astype(float)
    assert pictures.shape == (300, 16, 32, 3)
    left, right = pictures[:, :, :16].mean((1, 2)), pictures[:, :, 16:].mean((1, 2))
    of_red, of_blue = (
        lambda side, name=name: np.abs(side - COLOURS[name]).mean(1) for name in ("red", "blue")
    )
    is_right = (of_red(left) < of_blue(left)) & (of_blue(right) < of_red(right))
    assert 0.55 < is_right.mean() < 0.85
    assert pictures[:, :8, :8].std() > 20


def test_the_shipped_table_has_every_pair_of_colours_in_four_layouts_once():
    table = open_table("builtin:layouts", key="data.prompts")
    rows = [table.row(int(row)) for row in table.rows]
    assert len({row["prompt"] for row in rows}) == len(rows) == 4 * 10 * 9
    for row in rows:
        first, second = parse_regions(row["regions"])
        assert first.colour != second.colour
        shares = [(region_map((first, second), 32, 32) == index).mean() for index in (0, 1)]
        assert sum(shares) == 1
        assert min(shares) >= 0.25
        assert all(entry["colour"] in row["prompt"].split() for entry in row["regions"])
