"""The layout reward's numbers, and what does not change them."""

import numpy as np
import pytest

from rewards.base import Need, evaluate
from rewards.layout import LayoutReward, layout_match
from rl.data.regions import COLOURS, parse_regions
from rl.types import Finish, FinishedChain, Prompt

ROWS = [{"colour": "red", "box": [0, 0, 1, 0.5]}, {"colour": "blue", "box": [0, 0.5, 1, 1]}]
REGIONS = parse_regions(ROWS)
SQUARE = parse_regions(
    [{"colour": [100, 100, 100], "box": [0, 0, 1, 1]}, {"colour": [0, 0, 0], "box": [0.25, 0.25, 0.75, 0.75]}]
)


def stacked(top, bottom, height=8, width=8):
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2], picture[height // 2 :] = top, bottom
    return picture


def chain(picture, **reference):
    return FinishedChain(
        chain_id="asked#0/0",
        group_id="asked#0",
        prompt=Prompt(prompt_id="asked", reference=reference),
        finish=Finish.STOP,
        text="",
        pictures={} if picture is None else {"picture": picture},
        block_text={},
        final_block="picture",
    )


def test_the_picture_that_is_meant_earns_one_and_the_opposite_earns_none():
    assert layout_match(stacked(COLOURS["red"], COLOURS["blue"]), REGIONS) == 1.0
    black_and_white = parse_regions(
        [{"colour": [0, 0, 0], "box": [0, 0, 1, 0.5]}, {"colour": [255] * 3, "box": [0, 0.5, 1, 1]}]
    )
    assert layout_match(stacked(255, 0), black_and_white) == 0.0


def test_off_by_a_constant_costs_that_constant_and_unevenness_adds_to_it_in_squares():
    picture = np.full((8, 8, 3), 100, np.uint8)
    picture[2:6, 2:6] = 0
    assert layout_match(picture, SQUARE) == 1.0
    off = picture.copy()
    off[2:6, 2:6] = 51
    assert layout_match(off, SQUARE) == pytest.approx(1 - 51 / 255 / 2)
    uneven = off.copy()
    uneven[2:6, 2:4] = 51 - 40
    uneven[2:6, 4:6] = 51 + 40
    assert layout_match(uneven, SQUARE) == pytest.approx(1 - np.hypot(51, 40) / 255 / 2)


def test_size_shape_and_place_within_a_region_change_nothing():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    score = layout_match(picture, REGIONS)
    assert layout_match(picture.repeat(2, axis=0).repeat(3, axis=1), REGIONS) == pytest.approx(score)
    assert layout_match(picture[:, ::-1], REGIONS) == pytest.approx(score)
    shuffled = np.concatenate([rng.permutation(half) for half in np.split(picture, 2)])
    assert layout_match(shuffled, REGIONS) == pytest.approx(score)
    assert layout_match(picture[::-1], REGIONS) != pytest.approx(score, abs=1e-3)


def test_swapped_colours_earn_less_than_one_wrong_colour_and_that_less_than_rough_ones():
    red, blue = COLOURS["red"], COLOURS["blue"]
    rough = (stacked(red, blue) * 0.9).astype(np.uint8)
    scores = [layout_match(p, REGIONS) for p in (stacked(blue, red), stacked(red, COLOURS["white"]), rough)]
    assert scores == sorted(scores)
    assert 0 < scores[0] < scores[2] < 1


def test_as_a_reward_a_chain_without_picture_is_missing_and_bad_regions_are_no_zero():
    reward = LayoutReward()
    assert reward.needs == {Need.FINAL_PICTURE, "regions"}
    picture = stacked(COLOURS["red"], COLOURS["blue"])
    hidden = [*ROWS, {"colour": "white", "box": [0, 0, 1, 1]}]
    chains = [
        chain(picture, regions=ROWS),
        chain(None, regions=ROWS),
        chain(picture, regions=hidden),
        chain(picture, regions=[{**ROWS[0], "colour": "rod"}]),
    ]
    scores = evaluate(reward, "layout", chains)
    assert scores.values.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert scores.valid.tolist() == [True, True, False, False]
    assert scores.missing.tolist() == [False, True, False, False]
    assert scores.reasons[2:] == (
        "asked: regions[0] has no pixel of 8 x 8",
        "asked: regions[0].colour: no colour 'rod'; did you mean red?",
    )
