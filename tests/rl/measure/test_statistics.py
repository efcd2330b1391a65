"""Intervals against scipy.stats and against what they promise."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rl.measure.statistics import Interval, mean_interval, paired_interval, summarise_eval

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@settings(deadline=None)
@given(values, st.floats(0.5, 0.99))
def test_interval_is_student_t(numbers, confidence):
    got = mean_interval(numbers, confidence)
    error = float(stats.sem(numbers))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(numbers) - 1)) * error
    assert got.mean == pytest.approx(float(np.mean(numbers)))
    assert got.high - got.mean == pytest.approx(half, abs=1e-9)
    assert got.mean - got.low == pytest.approx(half, abs=1e-9)
    assert got.num == len(numbers)


@settings(deadline=None)
@given(values, st.floats(-50, 50))
def test_interval_moves_with_the_values(numbers, shift):
    plain, moved = mean_interval(numbers), mean_interval([number + shift for number in numbers])
    assert moved.mean == pytest.approx(plain.mean + shift, abs=1e-8)
    assert moved.high - moved.low == pytest.approx(plain.high - plain.low, abs=1e-8)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [mean_interval(rng.normal(3, 2, size=8)) for _ in range(2000)]
    covered = np.mean([interval.low <= 3 <= interval.high for interval in found])
    assert covered == pytest.approx(0.95, abs=0.02)


@settings(deadline=None)
@given(values, st.randoms(use_true_random=False))
def test_pairs_are_differences_of_prompts_both_have(before, random):
    after = [value + random.uniform(0, 1) for value in before]
    holes = [None if random.random() < 0.3 else value for value in after]
    kept = [a - b for a, b in zip(holes, before, strict=True) if a is not None]
    got = paired_interval(holes, before)
    if not kept:
        assert got is None
    else:
        want = mean_interval(kept)
        assert got is not None
        assert got.num == len(kept)
        assert got.mean == pytest.approx(want.mean)
        assert paired_interval(before, holes).mean == pytest.approx(-want.mean)


def test_one_value_says_nothing_of_the_spread():
    got = mean_interval([2.0])
    assert got == Interval(mean=2.0, low=-np.inf, high=np.inf, num=1)
    assert got.to_json() == {"mean": 2.0, "low": None, "high": None, "num": 1}


def test_a_constant_gain_has_no_width():
    got = paired_interval([1.5, 2.5, 3.5], [1.0, 2.0, 3.0])
    assert got.low == got.mean == got.high == 0.5


@pytest.mark.parametrize("numbers", [[], [np.nan], [1.0, np.inf]])
def test_not_finite_is_refused(numbers):
    with pytest.raises(ValueError, match="finite"):
        mean_interval(numbers)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], 1.0)
    with pytest.raises(ValueError, match="against"):
        paired_interval([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="now/psnr"):
        summarise_eval(["a"], {"now": {"psnr": [1.0, 2.0]}})


def test_summary_of_an_evaluation():
    found = summarise_eval(
        ["a", "b", "c"],
        {
            "bicubic": {"psnr": [20.0, 21.0, 22.0]},
            "start": {"psnr": [19.0, 20.5, 21.0], "format": [1.0, 0.0, 1.0], "never": [None, None, None]},
            "now": {"psnr": [20.0, float("nan"), 22.5], "format": [1.0, 1.0, 1.0], "never": [1.0, 1.0, 1.0]},
        },
    )
    json.dumps(found, allow_nan=False)
    assert found["num_prompts"] == 3
    assert found["rows"]["now"]["psnr"]["mean"] == 21.25
    assert "never" not in found["rows"]["start"]
    assert found["paired"]["now-start"]["psnr"]["mean"] == 1.25
    assert found["paired"]["now-start"]["psnr"]["num"] == 2
    assert list(found["paired"]["now-bicubic"]) == ["psnr"]
    assert found["prompts"]["b"]["now"] == {"psnr": None, "format": 1.0, "never": 1.0}
