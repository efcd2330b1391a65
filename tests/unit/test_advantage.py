"""Advantages against the standard library, and what must hold of them whatever the scores are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.advantage import assign_advantages, normalise, total_reward
from rl.errors import ConfigError, RewardError
from tests.reference import advantage as reference
from tests.reference.groups import make_group, make_scores

EPS = 1e-4
BLOCKS = ("words", "picture", "end")
quick = settings(deadline=None)
values_lists = st.lists(st.integers(-100, 100).map(lambda n: n / 8), min_size=2, max_size=9)


def assign(groups, weights, judged, *, credit="block"):
    return assign_advantages(
        groups, weights=weights, judged_blocks=judged, block_names=BLOCKS, credit=credit, eps=EPS
    )


def everyone(values):
    return np.asarray(values, dtype=np.float32), np.ones(len(values), dtype=bool)


@quick
@given(values_lists)
def test_normalise_equals_the_reference(values):
    got = normalise(*everyone(values), eps=EPS)
    np.testing.assert_allclose(got, reference.normalise(values, EPS), rtol=1e-5, atol=1e-6)


@quick
@given(values_lists, st.randoms(use_true_random=False), st.integers(-50, 50))
def test_normalise_properties(values, random, shift):
    got = normalise(*everyone(values), eps=EPS)
    size = len(values)
    assert abs(got.sum()) < 1e-4
    assert np.abs(got).max() <= (size - 1) / math.sqrt(size) + 1e-5
    np.testing.assert_allclose(normalise(*everyone([v + shift for v in values]), eps=EPS), got, atol=1e-5)
    np.testing.assert_allclose(normalise(*everyone([4 * v for v in values]), eps=4 * EPS), got, atol=1e-5)
    order = random.sample(range(size), size)
    np.testing.assert_array_equal(normalise(*everyone([values[i] for i in order]), eps=EPS), got[order])
    assert (np.argsort(got, kind="stable") == np.argsort(values, kind="stable")).all()


def test_equal_rewards_give_zero():
    assert not normalise(*everyone([0.3] * 5), eps=EPS).any()
    assert not normalise(*everyone([0.3]), eps=EPS).any()


@quick
@given(values_lists, st.data())
def test_invalid_members_take_no_part(values, data):
    valid = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    scores = make_scores("r", values, valid=valid)
    got = normalise(scores.values, scores.valid, eps=EPS)
    want = reference.normalise([v for v, ok in zip(values, valid, strict=True) if ok], EPS)
    np.testing.assert_allclose(got[scores.valid], want, rtol=1e-5, atol=1e-6)
    assert not got[~scores.valid].any()


@quick
@given(values_lists, st.data())
def test_block_credit_reaches_the_judged_blocks_only(first, data):
    second = data.draw(st.lists(st.integers(-9, 9).map(float), min_size=len(first), max_size=len(first)))
    group = make_group("g", {"a": make_scores("a", first), "b": make_scores("b", second)})
    got = assign([group], {"a": 2.0, "b": 0.5, "c": 0.0}, {"a": ("words", "end"), "b": ("end",)})
    a, b = reference.normalise(first, EPS), reference.normalise(second, EPS)
    for i in range(len(first)):
        row = got[f"g/{i}"]
        assert row == pytest.approx({0: 2 * a[i], 1: 0.0, 2: 2 * a[i] + 0.5 * b[i]}, abs=1e-5)


def test_a_narrow_reward_is_not_drowned_by_a_wide_one():
    wide, narrow = [0.0, 0.2, 0.4, 0.6], [0.51, 0.50, 0.50, 0.49]
    group = make_group("g", {"slots": make_scores("slots", wide), "quality": make_scores("quality", narrow)})
    got = assign([group], {"slots": 1.0, "quality": 1.0}, {"slots": ("words",), "quality": ("picture",)})
    assert got["g/0"][1] > 1
    assert got["g/3"][1] < -1


@quick
@given(values_lists, st.data())
def test_chain_credit_is_one_sum_for_all_blocks(first, data):
    second = data.draw(st.lists(st.integers(-9, 9).map(float), min_size=len(first), max_size=len(first)))
    group = make_group("g", {"a": make_scores("a", first), "b": make_scores("b", second)})
    got = assign([group], {"a": 1.0, "b": 3.0}, {}, credit="chain")
    totals = [x + 3 * y for x, y in zip(first, second, strict=True)]
    want = reference.normalise(totals, EPS)
    for i in range(len(first)):
        assert got[f"g/{i}"] == pytest.approx(dict.fromkeys(range(3), want[i]), abs=1e-4)


@pytest.mark.parametrize("credit", ["block", "chain"])
def test_a_tolerated_failure_is_worth_what_the_average_is(credit):
    scores = {
        "a": make_scores("a", [0.0, 1.0, 2.0]),
        "b": make_scores("b", [1.0, 7.0, 3.0], valid=[True, False, True]),
    }
    got = assign([make_group("g", scores)], {"a": 1.0, "b": 1.0}, {"a": BLOCKS, "b": BLOCKS}, credit=credit)
    assert got["g/1"] == pytest.approx({0: 0.0, 1: 0.0, 2: 0.0}, abs=1e-6)
    assert got["g/0"][0] < 0 < got["g/2"][0]


def test_total_reward_is_the_weighted_sum():
    group = make_group("g", {"a": make_scores("a", [1.0, 2.0]), "b": make_scores("b", [10.0, 30.0])})
    assert total_reward(group, {"a": 1.0, "b": 0.1}).tolist() == pytest.approx([2.0, 5.0])


def test_groups_do_not_see_each_other():
    groups = [
        make_group(n, {"a": make_scores("a", v)}) for n, v in (("g", [0.0, 1.0]), ("h", [100.0, 101.0]))
    ]
    got = assign(groups, {"a": 1.0}, {"a": BLOCKS})
    assert got["g/0"] == pytest.approx(got["h/0"], rel=1e-3)


def test_mistakes_are_named():
    group = make_group("g", {"a": make_scores("a", [0.0, 1.0])})
    with pytest.raises(ConfigError, match=r"rewards\.a\.blocks"):
        assign([group], {"a": 1.0}, {"a": ("nowhere",)})
    with pytest.raises(ConfigError, match=r"rewards\.a\.blocks"):
        assign([group], {"a": 1.0}, {})
    with pytest.raises(RewardError, match="no scores of"):
        assign([group], {"b": 1.0}, {"b": BLOCKS})
