"""The restored picture made small again, against plain loops; and a truth, against skimage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

from rewards.base import Missing, evaluate
from rewards.consistency import HIGHEST_DB, ConsistencyReward
from rewards.fidelity import FidelityReward
from rl.data.images import resize
from rl.errors import ConfigError
from tests.reference.rewards import make_view, picture


def chain(final, degraded, truth=None):
    return make_view(final=final, truth=truth, degraded=degraded)


def slow_blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of four standard deviations, edge pixels repeated, point by point."""
    radius = int(4.0 * sigma + 0.5)
    taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    for axis in (0, 1):
        out = np.zeros_like(plane)
        last = plane.shape[axis] - 1
        for place in range(last + 1):
            for k, tap in zip(range(-radius, radius + 1), taps, strict=True):
                source = min(max(place + k, 0), last)
                if axis == 0:
                    out[place] += tap / sum(taps) * plane[source]
                else:
                    out[:, place] += tap / sum(taps) * plane[:, source]
        plane = out
    return plane


def slow_consistency(final: np.ndarray, degraded: np.ndarray, sigma: float) -> float:
    again = resize(final, *degraded.shape[:2]).astype(float)
    total = 0.0
    for channel in range(3):
        one, two = again[..., channel], degraded[..., channel].astype(float)
        if sigma:
            one, two = slow_blur(one, sigma), slow_blur(two, sigma)
        total += float(np.sum((one - two) ** 2))
    return min(HIGHEST_DB, 10 * math.log10(255**2 / (total / degraded.size)))


@pytest.mark.parametrize("sigma", [0.0, 1.0, 1.7])
def test_it_agrees_with_plain_loops(sigma):
    final, degraded = picture(3, 64), picture(4, 16)
    (score,) = ConsistencyReward(sigma).score([chain(final, degraded)])
    assert score == pytest.approx(slow_consistency(final, degraded, sigma), abs=1e-6)


def test_the_same_photo_scores_most_and_another_least():
    truth = picture(1, 64, level=3.0)
    degraded = resize(truth, 16, 16)
    noisy = np.clip(truth + np.random.default_rng(0).normal(0, 25, truth.shape), 0, 255).astype(np.uint8)
    chains = [chain(truth, degraded), chain(noisy, degraded), chain(picture(7, 64), degraded)]
    best, middle, worst = ConsistencyReward().score(chains)
    assert best == HIGHEST_DB
    assert best > middle > worst > 0


def test_removing_the_photos_noise_costs_less_with_the_blur():
    clean = picture(2, 64, level=0.0)
    small = resize(clean, 16, 16)
    degraded = np.clip(small + np.random.default_rng(1).normal(0, 12, small.shape), 0, 255).astype(np.uint8)
    sharp, blurred = (ConsistencyReward(sigma).score([chain(clean, degraded)])[0] for sigma in (0.0, 1.0))
    assert blurred > sharp + 6


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.sampled_from([(16, 16), (9, 21)]))
def test_it_stays_in_its_range_at_any_size(seed, size):
    rng = np.random.default_rng(seed)
    final = rng.integers(0, 256, (4 * size[0], 4 * size[1], 3), dtype=np.uint8)
    degraded = rng.integers(0, 2, (*size, 3), dtype=np.uint8) * np.uint8(255)
    (score,) = ConsistencyReward().score([chain(final, degraded)])
    assert 0 <= score <= HIGHEST_DB


def test_a_chain_without_picture_gets_the_low_end():
    scores = evaluate(ConsistencyReward(), "c", [make_view()])
    assert (scores.values[0], bool(scores.missing[0])) == (0.0, True)


@pytest.mark.parametrize("blur", [-1, math.inf, "much"])
def test_a_wrong_blur_is_named(blur):
    with pytest.raises(ConfigError, match="blur_px: want a number of at least 0"):
        ConsistencyReward(blur)


# --------------------------------------------------------------------------------- fidelity


def test_fidelity_is_a_share_of_the_range_in_the_good_direction():
    truth = picture(1, 64, level=3.0)
    final = np.clip(truth + np.random.default_rng(0).normal(0, 9, truth.shape), 0, 255).astype(np.uint8)
    reward = FidelityReward("psnr", range=[10, 50])
    reward.setup()
    (score,) = reward.score([chain(final, picture(4, 16), truth)])
    assert score == pytest.approx((peak_signal_noise_ratio(truth, final) - 10) / 40, abs=1e-4)
    views = [chain(final, picture(4, 16), truth), chain(truth, picture(4, 16), truth)]
    for metric in ("ssim", "gmsd", "psnr"):
        reward = FidelityReward(metric)
        reward.check()
        reward.setup()
        worse, best = reward.score(views)
        assert 0 <= worse < best
        assert best == pytest.approx(1.0, abs=1e-6)


def test_fidelity_without_truth_or_of_another_size():
    reward = FidelityReward("ssim")
    reward.setup()
    views = [make_view(final=picture()), chain(picture(), picture(4, 16), picture(1, 48))]
    scores = evaluate(reward, "f", views)
    assert scores.missing.tolist() == [True, False]
    assert scores.valid.tolist() == [True, False]
    assert reward.score([]) == []
    assert isinstance(Missing(scores.reasons[0]), Missing)
    assert scores.reasons[0] == "no truth"
    assert "picture 0 is (64, 64, 3), its truth (48, 48, 3)" in scores.reasons[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "piqe"}, "metric: piqe does not compare with a truth; some that do: ssim, ssimc, psnr"),
        ({"metric": "sism"}, "pyiqa has no metric 'sism'; did you mean ssim"),
        ({"metric": "mad"}, r"expert mad: its scores have no declared range; give range: \[low, high\]"),
        ({"metric": "lpips"}, "expert lpips wants to download weights"),
        ({"range": [1, 1]}, r"range: want \[low, high\] with low < high, got \[1, 1\]"),
        ({"range": [1]}, r"range: want \[low, high\]"),
    ],
)
def test_a_wrong_metric_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        FidelityReward(**options).check()
