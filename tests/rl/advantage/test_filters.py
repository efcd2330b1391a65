"""What a scorer's failure costs, and which groups are worth an update."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import AdvantageConfig, BlockConfig, Config, RewardConfig
from rl.advantage.assign import assign_advantages
from rl.advantage.combine import RewardTerm
from rl.advantage.filters import FilterCounts, FilterResult, filter_group, has_spread, select, staleness_of
from rl.errors import RewardError
from tests.reference.groups import make_group, make_scores

BLOCKS = ("words", "picture")
CHAIN = {"words": BlockConfig(), "picture": BlockConfig(kind="image", policy="image")}


def terms_of(rewards, judged=None):
    return {
        name: RewardTerm(weight=r.weight, blocks=(judged or {}).get(name, BLOCKS), best=1.0, missing=0.0)
        for name, r in rewards.items()
    }


def filtered_by(group, rewards, judged=None, **advantage):
    config = Config(rewards=rewards, chain=CHAIN, advantage=AdvantageConfig(**advantage))
    return filter_group(group, config, terms_of(rewards, judged))


def failing_group():
    return make_group(
        "g",
        {
            "a": make_scores("a", [0.0, 1.0, 2.0], valid=[True, False, True]),
            "b": make_scores("b", [0.0, 1.0, 2.0]),
        },
    )


@pytest.mark.parametrize(
    ("policy", "result", "num_left"),
    [
        ("drop_chain", FilterResult.KEPT, 2),
        ("drop_group", FilterResult.INVALID, 0),
        ("monitor_only", FilterResult.KEPT, 3),
    ],
)
def test_failure_policies(policy, result, num_left):
    filtered = filtered_by(failing_group(), {"a": RewardConfig(on_failure=policy), "b": RewardConfig()})
    assert filtered.result is result
    assert len(filtered.group.chains) == num_left
    assert filtered.num_invalid == 1
    for scores in filtered.group.scores.values():
        assert len(scores.values) == len(scores.reasons) == num_left


def test_raise_names_reward_chain_and_reason():
    with pytest.raises(RewardError, match="reward a, g/1: scorer broke"):
        filtered_by(failing_group(), {"a": RewardConfig(on_failure="raise"), "b": RewardConfig()})


def test_a_reward_that_only_measures_costs_nothing():
    filtered = filtered_by(failing_group(), {"a": RewardConfig(weight=0.0), "b": RewardConfig()})
    assert filtered.result is FilterResult.KEPT
    assert len(filtered.group.chains) == 3


def test_too_few_chains_left_is_invalid():
    scores = {"a": make_scores("a", [0.0, 1.0, 2.0], valid=[True, False, False])}
    assert filtered_by(make_group("g", scores), {"a": RewardConfig()}).result is FilterResult.INVALID


def test_zero_spread_looks_at_weighted_rewards_only():
    group = make_group("g", {"a": make_scores("a", [0.5] * 4), "b": make_scores("b", [0.0, 1.0, 2.0, 3.0])})
    assert (
        filtered_by(group, {"a": RewardConfig(), "b": RewardConfig(weight=0.0)}).result
        is FilterResult.ZERO_SPREAD
    )
    assert (
        filtered_by(group, {"a": RewardConfig(), "b": RewardConfig(weight=0.1)}).result is FilterResult.KEPT
    )


# --------------------------------------------------------------------------------- spread of what is trained


def test_a_gate_can_take_the_spread_away():
    scores = {"form": make_scores("form", [0.0] * 3), "a": make_scores("a", [0.1, 0.2, 0.3])}
    group, rewards = make_group("g", scores), {"form": RewardConfig(weight=0.0), "a": RewardConfig()}
    assert filtered_by(group, rewards).result is FilterResult.KEPT
    gated = filtered_by(group, rewards, gate="form")
    assert gated.result is FilterResult.ZERO_SPREAD
    assert gated.group is group  # as scored: the gate is applied where advantages are made


def test_a_gate_can_make_the_spread():
    scores = {"form": make_scores("form", [0.0, 1.0, 1.0]), "a": make_scores("a", [0.5] * 3)}
    group, rewards = make_group("g", scores), {"form": RewardConfig(weight=0.0), "a": RewardConfig()}
    assert filtered_by(group, rewards).result is FilterResult.ZERO_SPREAD
    assert filtered_by(group, rewards, gate="form").result is FilterResult.KEPT


def test_a_gates_failure_costs_what_its_policy_says_even_at_weight_0():
    scores = {
        "form": make_scores("form", [1.0, 1.0, 1.0], valid=[True, False, True]),
        "a": make_scores("a", [0.1, 0.2, 0.3]),
    }
    group = make_group("g", scores)
    rewards = {"form": RewardConfig(weight=0.0), "a": RewardConfig()}
    assert len(filtered_by(group, rewards, gate="form").group.chains) == 2
    assert len(filtered_by(group, rewards).group.chains) == 3
    tolerant = {**rewards, "form": RewardConfig(weight=0.0, on_failure="monitor_only")}
    assert len(filtered_by(group, tolerant, gate="form").group.chains) == 3


def test_rewards_that_cancel_have_no_spread_where_they_are_summed():
    scores = {"a": make_scores("a", [0.0, 1.0]), "b": make_scores("b", [1.0, 0.0])}
    group, rewards = make_group("g", scores), {"a": RewardConfig(), "b": RewardConfig()}
    assert filtered_by(group, rewards, combine="each").result is FilterResult.KEPT
    assert filtered_by(group, rewards, combine="sum").result is FilterResult.ZERO_SPREAD
    assert filtered_by(group, rewards, combine="sum", credit="chain").result is FilterResult.ZERO_SPREAD
    apart = {"a": ("words",), "b": ("picture",)}
    assert filtered_by(group, rewards, apart, combine="sum").result is FilterResult.KEPT
    assert (
        filtered_by(group, rewards, apart, combine="sum", credit="chain").result is FilterResult.ZERO_SPREAD
    )


def test_against_the_batch_a_group_of_equals_is_trained():
    group = make_group("g", {"a": make_scores("a", [0.5] * 4)})
    rewards = {"a": RewardConfig()}
    assert filtered_by(group, rewards, baseline="batch", scale="batch_std").result is FilterResult.KEPT
    assert (
        filtered_by(group, rewards, baseline="leave_one_out", scale="none").result is FilterResult.ZERO_SPREAD
    )


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3), min_size=2, max_size=4),
    st.sampled_from(["each", "sum"]),
    st.sampled_from(["block", "chain"]),
    st.sampled_from(["", "form"]),
)
def test_a_group_is_dropped_exactly_where_all_its_advantages_would_be_0(values, combine, credit, gate):
    names = ("form", "a", "b")
    scores = {n: make_scores(n, column) for n, column in zip(names, zip(*values, strict=True), strict=True)}
    rewards = {name: RewardConfig() for name in names}
    judged = {"form": ("words",), "a": ("words", "picture"), "b": ("picture",)}
    group = make_group("g", scores)
    choice = {"combine": combine, "credit": credit, "gate": gate}
    result = filtered_by(group, rewards, judged, **choice).result
    columns = AdvantageConfig(**choice)
    got = assign_advantages([group], terms_of(rewards, judged), BLOCKS, columns)
    moves = any(abs(value) > 1e-9 for row in got.values() for value in row.values())
    if result is FilterResult.ZERO_SPREAD:
        assert not moves
    elif combine == "sum":
        assert moves
    else:  # two normalised rewards may cancel each other
        assert result is FilterResult.KEPT


def test_small_weights_do_not_hide_the_spread_of_a_sum():
    group = make_group("g", {"a": make_scores("a", [0.0, 1e-3])})
    assert filtered_by(group, {"a": RewardConfig(weight=1e-4)}, combine="sum").result is FilterResult.KEPT


def test_last_digits_are_no_spread():
    assert not has_spread(make_scores("a", [0.5, 0.5 + 1e-7]))
    assert has_spread(make_scores("a", [0.5, 0.501]))
    assert not has_spread(make_scores("a", [0.5, 0.7], valid=[True, False]))


# --------------------------------------------------------------------------------- staleness


def written_by(*versions):
    group = make_group("g", {"a": make_scores("a", [0.0] * len(versions))})
    chains = [replace(chain, versions=seen) for chain, seen in zip(group.chains, versions, strict=True)]
    return replace(group, chains=tuple(chains))


def test_staleness_is_of_the_oldest_weights_that_wrote_anything():
    group = written_by({"text": (7, 7), "image": (3, 3)}, {"text": (5, 7)}, {})
    assert staleness_of(group, {"text": 7, "image": 3}) == 2
    assert staleness_of(group, {"text": 7, "image": 6}) == 3
    assert staleness_of(group, {"image": 4}) == 1  # nobody trains the text policy
    assert staleness_of(group, {}) == 0
    assert staleness_of(written_by({"text": (7, 7)}), {"text": 7}) == 0


# --------------------------------------------------------------------------------- rows and counts


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
    counts.add(group, filtered_by(group, rewards))
    assert counts.to_metrics() == {
        "group/kept_frac": 1.0,
        "group/dropped_invalid": 0.0,
        "group/dropped_zero_spread": 0.0,
        "rollout/failed_frac": pytest.approx(1 / 3),
    }
    assert counts.invalid_frac == pytest.approx(1 / 3)
