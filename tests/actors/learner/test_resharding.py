"""Optimizer states on the host, and checkpoints that other numbers of ranks go on from, in real processes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference.ranks import run_ranks
from tests.reference.state_jobs import LORA, resumed_lives, saved_lives
from tests.reference.tiny_policy import write_start

pytestmark = pytest.mark.engine

LIVES = {
    "stage 1": {"zero_stage": 1},
    "stage 2": {"zero_stage": 2},
    "stage 3": {"zero_stage": 3},
    "bfloat16": {"zero_stage": 2, "dtype": "bfloat16"},
    "bfloat16 in stage 3": {"zero_stage": 3, "dtype": "bfloat16"},
    "adapters": {"zero_stage": 2, "lora": LORA},
    "adapters in stage 3": {"zero_stage": 3, "lora": LORA},
}
HOST = {f"{name}, host": {**keys, "offload_optimizer": True} for name, keys in LIVES.items()}
WORLDS = (1, 2)
ways = pytest.mark.parametrize("way", [(1, 2), (2, 1), (1, 1), (2, 2)])
"""Ranks that saved, and ranks that go on."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("resharding")
    write_start(path / "start")
    return path


@pytest.fixture(scope="module")
def saved(root):
    """What the ranks that saved showed: ``[world size][rank][life]``."""
    return {world: run_ranks(saved_lives, world, root, LIVES | HOST) for world in WORLDS}


@pytest.fixture(scope="module")
def resumed(root, saved):
    """What those that went on showed: ``[world sizes before and now][rank][life]``."""
    return {
        (before, now): run_ranks(resumed_lives, now, root, LIVES | HOST, "", before)
        for before in WORLDS
        for now in WORLDS
    }


def bits(weights):
    return {name: array.tobytes() for name, array in weights.items()}


def assert_near(got, want, life):
    # A bfloat16 weight may round to its other neighbour: half a percent.
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if "bfloat16" in life else {"rtol": 0, "atol": 1e-6}
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, **tolerance, err_msg=name)


@pytest.mark.parametrize("life", LIVES | HOST)
@ways
def test_any_number_of_ranks_has_what_was_saved_to_the_last_bit(saved, resumed, way, life):
    want, got = saved[way[0]][0][life], resumed[way][0][life]
    assert got["version"] == want["version"] == 1
    assert bits(got["weights"]) == bits(want["weights"])
    assert bits(got["average"]) == bits(want["average"])


@pytest.mark.parametrize("life", LIVES | HOST)
@ways
def test_the_next_update_is_that_of_a_run_that_was_not_interrupted(saved, resumed, way, life):
    want, got = saved[way[0]][0][life], resumed[way][0][life]
    assert got["rates"] == want["rates"]
    for what in ("next", "next average"):
        assert_near(got[what], want[what], life)
        if way[0] == way[1]:
            assert bits(got[what]) == bits(want[what])


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("world", WORLDS)
def test_on_the_host_the_numbers_are_the_same(saved, world, life):
    here, there = saved[world][0][life], saved[world][0][f"{life}, host"]
    for what in ("weights", "average", "next", "next average"):
        assert_near(there[what], here[what], life)


@pytest.mark.parametrize(("life", "before"), [("stage 3", "stage 1"), ("stage 1", "stage 3, host")])
def test_another_stage_goes_on_too(root, saved, life, before):
    got = run_ranks(resumed_lives, 2, root, {life: LIVES[life]}, before, 1)[0][life]
    want = saved[1][0][before]
    assert bits(got["weights"]) == bits(want["weights"])
    assert_near(got["next"], want["next"], life)
