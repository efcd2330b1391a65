"""Advantages against the papers' equations in plain Python, and what must hold of them whatever the scores are."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.methods import BASELINES as NAMES
from configs.schema import AdvantageConfig
from rl.advantage.assign import assign_advantages
from rl.advantage.baselines import BASELINES, compare, find_baseline, whiten
from rl.advantage.combine import RewardTerm, apply_gate, total_reward
from rl.errors import ConfigError, RewardError
from tests.reference import advantage as reference
from tests.reference.groups import make_group, make_scores

EPS = 1e-4
BLOCKS = ("words", "picture", "end")
quick = settings(deadline=None, max_examples=60)
numbers = st.integers(-100, 100).map(lambda n: n / 8)  # exact in float32
group_lists = st.lists(st.lists(numbers, min_size=2, max_size=6), min_size=1, max_size=4)

OURS = AdvantageConfig(eps=EPS)
GRPO = AdvantageConfig(credit="chain", combine="sum", eps=EPS)
DR_GRPO = replace(GRPO, scale="none")
RLOO = replace(GRPO, baseline="leave_one_out", scale="none")
REINFORCE_PP = replace(GRPO, baseline="batch", scale="batch_std")
REINFORCE_PP_BASELINE = replace(GRPO, scale="none", whiten=True)
FLOW_GRPO = replace(GRPO, scale="batch_std")
GDPO = replace(GRPO, combine="each", whiten=True)
METHODS = {
    "grpo": GRPO,
    "dr_grpo": DR_GRPO,
    "rloo": RLOO,
    "reinforce_pp": REINFORCE_PP,
    "reinforce_pp_baseline": REINFORCE_PP_BASELINE,
    "flow_grpo": FLOW_GRPO,
}
ALL = {**METHODS, "gdpo": GDPO, "ours": OURS}


def term(weight=1.0, blocks=BLOCKS, best=1.0, missing=0.0):
    return RewardTerm(weight=weight, blocks=blocks, best=best, missing=missing)


def assign(groups, config, weights, judged=None):
    judged = judged or {}
    terms = {name: term(weight, judged.get(name, BLOCKS)) for name, weight in weights.items()}
    return assign_advantages(groups, terms, BLOCKS, config)


def scored(**rewards):
    """Groups g0, g1, ... from lists of groups of values, by reward."""
    (sizes,) = {tuple(map(len, groups)) for groups in rewards.values()}
    return [
        make_group(f"g{i}", {name: make_scores(name, groups[i]) for name, groups in rewards.items()})
        for i in range(len(sizes))
    ]


def rows(advantages, block=0):
    """Advantages of one block, group by group."""
    found = {}
    for chain_id, by_block in advantages.items():
        found.setdefault(chain_id.split("/")[0], []).append(by_block[block])
    return list(found.values())


def close(got, want, tolerance=1e-6):
    np.testing.assert_allclose(reference.flat(got), reference.flat(want), rtol=tolerance, atol=tolerance)


def second_reward(data, groups):
    return [data.draw(st.lists(numbers, min_size=len(g), max_size=len(g))) for g in groups]


# --------------------------------------------------------------------------------- named methods


@pytest.mark.parametrize("name", METHODS)
@quick
@given(group_lists, st.data())
def test_a_named_method_is_its_papers_equation(name, first, data):
    second = second_reward(data, first)
    got = assign(scored(a=first, b=second), METHODS[name], {"a": 0.5, "b": 2.0})
    want = getattr(reference, name)(reference.weighted_sum([first, second], [0.5, 2.0]), EPS)
    for block in range(len(BLOCKS)):
        close(rows(got, block), want)


@quick
@given(group_lists, st.data())
def test_gdpo_is_its_papers_equation(first, data):
    second = second_reward(data, first)
    got = assign(scored(a=first, b=second), GDPO, {"a": 0.5, "b": 2.0})
    close(rows(got), reference.gdpo([first, second], [0.5, 2.0], EPS))


@quick
@given(group_lists)
def test_leave_one_out_is_mean_only_stretched(groups):
    loo, mean_only = (rows(assign(scored(a=groups), config, {"a": 1.0})) for config in (RLOO, DR_GRPO))
    close(loo, [[len(g) / (len(g) - 1) * value for value in g] for g in mean_only], 1e-9)


def test_a_group_of_one_has_nothing_to_compare_with():
    alone = np.asarray([3.0]), np.asarray([True]), [1]
    for config in (GRPO, DR_GRPO, RLOO, FLOW_GRPO):
        assert compare(*alone, config).tolist() == [0.0]


# --------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("name", ALL)
@quick
@given(group_lists, st.integers(-50, 50), st.randoms(use_true_random=False))
def test_shift_order_and_sum(name, groups, shift, random):
    config = ALL[name]
    got = assign(scored(a=groups), config, {"a": 1.0})
    close(
        rows(assign(scored(a=[[v + shift for v in g] for g in groups]), config, {"a": 1.0})), rows(got), 1e-5
    )
    if config.baseline != "batch":
        assert max(abs(sum(group)) for group in rows(got)) < 1e-8
    assert abs(sum(reference.flat(rows(got)))) < 1e-8

    # The order of groups and of chains in them changes nobody's advantage.
    mixed = random.sample(scored(a=groups), len(groups))
    mixed = [mixed_chains(group, random) for group in mixed]
    again = assign(mixed, config, {"a": 1.0})
    for chain_id, by_block in got.items():
        assert again[chain_id] == pytest.approx(by_block, rel=1e-9, abs=1e-9)


def mixed_chains(group, random):
    order = random.sample(range(len(group.chains)), len(group.chains))
    values = group.scores["a"].values[order]
    return replace(
        group, chains=tuple(group.chains[i] for i in order), scores={"a": make_scores("a", values.tolist())}
    )


@pytest.mark.parametrize(
    "name", ["grpo", "reinforce_pp", "reinforce_pp_baseline", "flow_grpo", "gdpo", "ours"]
)
@quick
@given(group_lists)
def test_the_rewards_scale_falls_out_where_deviations_divide(name, groups):
    config = replace(ALL[name], eps=0.0)
    got = rows(assign(scored(a=groups), config, {"a": 1.0}))
    close(rows(assign(scored(a=[[4 * v for v in g] for g in groups]), config, {"a": 1.0})), got)


@pytest.mark.parametrize("name", ["dr_grpo", "rloo"])
@quick
@given(group_lists)
def test_the_rewards_scale_stays_where_nothing_divides(name, groups):
    got = rows(assign(scored(a=groups), ALL[name], {"a": 1.0}))
    stretched = rows(assign(scored(a=[[4 * v for v in g] for g in groups]), ALL[name], {"a": 1.0}))
    close(stretched, [[4 * value for value in group] for group in got])


@quick
@given(group_lists)
def test_within_a_group_the_better_earns_more_and_no_one_exceeds_the_bound(groups):
    for values, got in zip(groups, rows(assign(scored(a=groups), GRPO, {"a": 1.0})), strict=True):
        size = len(values)
        assert max(map(abs, got)) <= (size - 1) / math.sqrt(size) + 1e-9
        assert (np.argsort(got, kind="stable") == np.argsort(values, kind="stable")).all()


@pytest.mark.parametrize("eps", [0.0, EPS])
@pytest.mark.parametrize("name", ALL)
def test_equal_rewards_give_zero(name, eps):
    groups = scored(a=[[0.3] * 5, [0.3] * 3])
    got = assign(groups, replace(ALL[name], eps=eps), {"a": 1.0})
    assert all(value == pytest.approx(0.0, abs=1e-9) for row in got.values() for value in row.values())


@pytest.mark.parametrize("credit", ["block", "chain"])
@pytest.mark.parametrize("combine", ["each", "sum"])
@quick
@given(group_lists, st.data())
def test_a_reward_of_weight_0_has_no_effect(credit, combine, groups, data):
    config = AdvantageConfig(credit=credit, combine=combine, whiten=True)
    other = second_reward(data, groups)
    got = assign(scored(a=groups, b=other), config, {"a": 1.0, "b": 0.0})
    assert got == assign(scored(a=groups), config, {"a": 1.0})


def test_groups_do_not_see_each_other_unless_the_batch_is_asked():
    got = assign(scored(a=[[0.0, 1.0], [100.0, 101.0]]), OURS, {"a": 1.0})
    assert got["g0/0"] == pytest.approx(got["g1/0"], rel=1e-3)
    against_all = assign(scored(a=[[0.0, 1.0], [100.0, 101.0]]), REINFORCE_PP, {"a": 1.0})
    assert max(rows(against_all)[0]) < 0 < min(rows(against_all)[1])


def test_nothing_to_assign_is_nothing():
    for config in ALL.values():
        assert assign([], config, {"a": 1.0}) == {}


# --------------------------------------------------------------------------------- invalid scores


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "flow_grpo"])
@quick
@given(group_lists, st.data())
def test_invalid_members_take_no_part(name, groups, data):
    valid = [data.draw(st.lists(st.booleans(), min_size=len(g), max_size=len(g))) for g in groups]
    ok = np.asarray(reference.flat(valid))
    values = np.where(ok, reference.flat(groups), np.nan)
    got = compare(values, ok, [len(g) for g in groups], METHODS[name])
    left = [[v for v, keep in zip(*pair, strict=True) if keep] for pair in zip(groups, valid, strict=True)]
    if name == "rloo":
        left = [group if len(group) > 1 else [0.0, 0.0][: len(group)] for group in left]
        want = [reference.rloo([group], EPS)[0] if len(group) > 1 else group for group in left]
    else:
        want = getattr(reference, name)([group for group in left if group], EPS)
    np.testing.assert_allclose(got[ok], reference.flat(want), rtol=1e-6, atol=1e-6)
    assert not got[~ok].any()


@pytest.mark.parametrize("combine", ["each", "sum"])
@pytest.mark.parametrize("credit", ["block", "chain"])
def test_a_tolerated_failure_is_worth_what_the_average_is(credit, combine):
    scores = {
        "a": make_scores("a", [0.0, 1.0, 2.0]),
        "b": make_scores("b", [1.0, 7.0, 3.0], valid=[True, False, True]),
    }
    config = AdvantageConfig(credit=credit, combine=combine)
    got = assign([make_group("g", scores)], config, {"a": 1.0, "b": 1.0})
    assert got["g/1"] == pytest.approx({0: 0.0, 1: 0.0, 2: 0.0}, abs=1e-6)
    assert got["g/0"][0] < 0 < got["g/2"][0]


# --------------------------------------------------------------------------------- credit


@quick
@given(group_lists, st.data())
def test_each_reaches_the_judged_blocks_only(first, data):
    second = second_reward(data, first)
    judged = {"a": ("words", "end"), "b": ("end",)}
    got = assign(scored(a=first, b=second), OURS, {"a": 2.0, "b": 0.5, "c": 0.0}, judged)
    a, b = (reference.grpo(groups, EPS) for groups in (first, second))
    close(rows(got, 0), [[2 * v for v in group] for group in a])
    assert not any(reference.flat(rows(got, 1)))
    close(rows(got, 2), reference.weighted_sum([a, b], [2.0, 0.5]))


@quick
@given(group_lists, st.data())
def test_a_sum_by_block_is_of_the_rewards_that_judge_it(first, data):
    second = second_reward(data, first)
    judged = {"a": ("words", "end"), "b": ("end",)}
    config = replace(OURS, combine="sum")
    got = assign(scored(a=first, b=second), config, {"a": 2.0, "b": 0.5}, judged)
    close(rows(got, 0), reference.grpo(reference.weighted_sum([first], [2.0]), EPS))
    assert not any(reference.flat(rows(got, 1)))
    close(rows(got, 2), reference.grpo(reference.weighted_sum([first, second], [2.0, 0.5]), EPS))


def test_a_narrow_reward_is_not_drowned_by_a_wide_one():
    groups = scored(slots=[[0.0, 0.2, 0.4, 0.6]], quality=[[0.51, 0.50, 0.50, 0.49]])
    judged = {"slots": ("words",), "quality": ("picture",)}
    got = assign(groups, OURS, {"slots": 1.0, "quality": 1.0}, judged)
    assert got["g0/0"][1] > 1
    assert got["g0/3"][1] < -1


def test_total_reward_is_the_weighted_sum():
    (group,) = scored(a=[[1.0, 2.0]], b=[[10.0, 30.0]])
    assert total_reward(group, {"a": term(1.0), "b": term(0.1)}).tolist() == pytest.approx([2.0, 5.0])


# --------------------------------------------------------------------------------- gate, whitening, bounds


@quick
@given(group_lists, st.data())
def test_a_chain_that_misses_the_gate_has_the_missing_values(groups, data):
    passed = [data.draw(st.lists(st.booleans(), min_size=len(g), max_size=len(g))) for g in groups]
    form = [[float(ok) for ok in group] for group in passed]
    gated = [
        [value if ok else -5.0 for value, ok in zip(*pair, strict=True)]
        for pair in zip(groups, passed, strict=True)
    ]
    terms = {"form": term(0.0), "a": term(2.0, missing=-5.0)}
    config = replace(GRPO, gate="form")
    got = assign_advantages(scored(form=form, a=groups), terms, BLOCKS, config)
    close(rows(got), reference.grpo(reference.weighted_sum([gated], [2.0]), EPS))


def test_the_gate_leaves_itself_invalid_scores_and_what_has_no_missing_value_alone():
    scores = {
        "form": make_scores("form", [1.0, 0.5, 0.5, 1 - 1e-8], valid=[True, True, False, True]),
        "a": make_scores("a", [3.0, 3.0, 3.0, 3.0], valid=[True, False, True, True]),
        "b": make_scores("b", [3.0, 3.0, 3.0, 3.0]),
        "length": make_scores("length", [-1.0, -1.0, -1.0, -1.0]),
    }
    terms = {"form": term(), "a": term(), "b": term(missing=0.25), "length": term(best=0.0, missing=None)}
    group = make_group("g", scores)
    got = apply_gate(group, terms, "form").scores
    assert got["form"] is scores["form"]
    assert got["length"] is scores["length"]
    assert got["a"].valid.tolist() == [True, False, True, True]
    assert got["a"].values[[0, 2, 3]].tolist() == [3.0, 3.0, 3.0]
    assert got["b"].values.tolist() == [3.0, 0.25, 3.0, 3.0]
    assert apply_gate(group, terms, "") is group


def test_the_gate_looks_at_oriented_scores():
    """A reward where smaller is better leaves the worker negated: its best is minus its low end."""
    scores = {"error": make_scores("error", [-0.0, -2.0]), "a": make_scores("a", [1.0, 1.0])}
    terms = {"error": term(best=-0.0, missing=-9.0), "a": term(missing=-3.0)}
    assert apply_gate(make_group("g", scores), terms, "error").scores["a"].values.tolist() == [1.0, -3.0]


@quick
@given(group_lists, st.data())
def test_whitening_is_by_block_where_credit_is(first, data):
    second = second_reward(data, first)
    config = replace(OURS, scale="none", whiten=True)
    judged = {"a": ("words",), "b": ("end",)}
    got = assign(scored(a=first, b=second), config, {"a": 3.0, "b": 1.0}, judged)
    close(rows(got, 0), reference.reinforce_pp_baseline(reference.weighted_sum([first], [3.0]), EPS))
    assert not any(reference.flat(rows(got, 1)))
    close(rows(got, 2), reference.reinforce_pp_baseline(second, EPS))


def test_a_whitened_table_has_mean_0_and_deviation_1():
    table = np.random.default_rng(0).normal(3.0, 5.0, (40, 2))
    got = whiten(table, 0.0)
    np.testing.assert_allclose(got.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(got.std(axis=0, ddof=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@quick
@given(group_lists)
def test_the_clip_is_the_last_word(name, groups):
    free, held = (
        rows(assign(scored(a=groups), replace(ALL[name], clip=clip), {"a": 1.0})) for clip in (0.0, 0.5)
    )
    close(held, [[max(-0.5, min(0.5, value)) for value in group] for group in free], 1e-12)


# --------------------------------------------------------------------------------- mistakes


def test_mistakes_are_named():
    groups = scored(a=[[0.0, 1.0]])
    with pytest.raises(ConfigError, match=r"rewards\.a\.blocks"):
        assign(groups, OURS, {"a": 1.0}, {"a": ("nowhere",)})
    with pytest.raises(ConfigError, match=r"rewards\.a\.blocks"):
        assign_advantages(groups, {"a": term(blocks=())}, BLOCKS, OURS)
    with pytest.raises(RewardError, match="no scores of"):
        assign(groups, OURS, {"b": 1.0})
    with pytest.raises(RewardError, match=r"no scores of \['form'\]"):
        assign(groups, replace(OURS, gate="form"), {"a": 1.0, "form": 0.0})


# --------------------------------------------------------------------------------- the user's own

OWN = "tests.reference.own_methods"


def test_every_name_has_a_baseline():
    assert tuple(BASELINES) == NAMES


@quick
@given(group_lists)
def test_a_baseline_of_ones_own_is_taken_off(groups):
    config = replace(GRPO, baseline=f"{OWN}:median", scale="none")
    want = [[value - float(np.median(group)) for value in group] for group in groups]
    close(rows(assign(scored(a=groups), config, {"a": 1.0})), want)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{OWN}:mdian", f"{OWN} has no 'mdian'; did you mean median?"),
        (f"{OWN}:takes_values_only", "want takes_values_only(values, groups, weights)"),
    ],
)
def test_a_baseline_that_cannot_be_used_costs_one_line(target, message):
    with pytest.raises(ConfigError) as caught:
        find_baseline(target)
    assert str(caught.value).startswith("advantage.baseline: ")
    assert message in str(caught.value)


def test_a_baseline_that_is_not_one_number_a_chain_is_named():
    with pytest.raises(ConfigError, match=r"gave shape \[\] for 4 chains; want one finite number a chain"):
        assign(scored(a=[[0.0, 1.0], [2.0, 3.0]]), replace(GRPO, baseline=f"{OWN}:one_number"), {"a": 1.0})
