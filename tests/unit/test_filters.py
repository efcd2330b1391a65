"""What a scorer's failure costs, and which groups are worth an update."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import RewardConfig
from rl.errors import RewardError
from rl.filters import Fate, FilterCounts, has_spread, select, sift
from tests.reference.groups import make_group, make_scores


def failing_group():
    return make_group(
        "g",
        {
            "a": make_scores("a", [0.0, 1.0, 2.0], valid=[True, False, True]),
            "b": make_scores("b", [0.0, 1.0, 2.0]),
        },
    )


@pytest.mark.parametrize(
    ("policy", "fate", "num_left"),
    [
        ("drop_chain", Fate.KEPT, 2),
        ("drop_group", Fate.INVALID, 0),
        ("monitor_only", Fate.KEPT, 3),
    ],
)
def test_failure_policies(policy, fate, num_left):
    sifted = sift(failing_group(), {"a": RewardConfig(on_failure=policy), "b": RewardConfig()})
    assert sifted.fate is fate
    assert len(sifted.group.chains) == num_left
    assert sifted.num_invalid == 1
    for scores in sifted.group.scores.values():
        assert len(scores.values) == len(scores.reasons) == num_left


def test_raise_names_reward_chain_and_reason():
    with pytest.raises(RewardError, match="reward a, g/1: scorer broke"):
        sift(failing_group(), {"a": RewardConfig(on_failure="raise"), "b": RewardConfig()})


def test_a_reward_that_only_measures_costs_nothing():
    sifted = sift(failing_group(), {"a": RewardConfig(weight=0.0), "b": RewardConfig()})
    assert sifted.fate is Fate.KEPT
    assert len(sifted.group.chains) == 3


def test_too_few_chains_left_is_invalid():
    scores = {"a": make_scores("a", [0.0, 1.0, 2.0], valid=[True, False, False])}
    assert sift(make_group("g", scores), {"a": RewardConfig()}).fate is Fate.INVALID


def test_zero_spread_looks_at_weighted_rewards_only():
    group = make_group("g", {"a": make_scores("a", [0.5] * 4), "b": make_scores("b", [0.0, 1.0, 2.0, 3.0])})
    assert sift(group, {"a": RewardConfig(), "b": RewardConfig(weight=0.0)}).fate is Fate.ZERO_SPREAD
    assert sift(group, {"a": RewardConfig(), "b": RewardConfig(weight=0.1)}).fate is Fate.KEPT


def test_last_digits_are_no_spread():
    assert not has_spread(make_scores("a", [0.5, 0.5 + 1e-7]))
    assert has_spread(make_scores("a", [0.5, 0.501]))
    assert not has_spread(make_scores("a", [0.5, 0.7], valid=[True, False]))


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_select_keeps_rows_together(keep):
    group = failing_group()
    left = select(group, np.asarray(keep))
    assert [c.index for c in left.chains] == [i for i in range(3) if keep[i]]
    assert left.scores["b"].values.tolist() == [float(i) for i in range(3) if keep[i]]


def test_counts():
    counts, rewards = FilterCounts(), {"a": RewardConfig(), "b": RewardConfig()}
    group = failing_group()
    counts.add(group, sift(group, rewards))
    counts.count(Fate.STALE)
    assert counts.to_metrics() == {
        "group/kept_frac": 0.5,
        "group/dropped_invalid": 0.0,
        "group/dropped_zero_spread": 0.0,
        "group/dropped_stale": 1.0,
        "rollout/failed_frac": pytest.approx(1 / 3),
    }
    assert counts.invalid_frac == pytest.approx(1 / 3)
