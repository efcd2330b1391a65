"""The learned expert's lessons: variants of photographs, graded by SSIM, drawn in batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from actors.coldstart.restoration.expert_data import make_expert_dataset, make_variants, ssim_luma
from actors.coldstart.restoration.expert_trainer import NUM_DRAWN, expert_batches
from rewards.experts.picture_metrics import PictureMetrics
from tests.reference.expert import tiny_dataset
from tests.reference.rewards import picture

LUMA = np.asarray([0.299, 0.587, 0.114])


def test_a_dataset_holds_every_variant_of_every_content_with_its_grade():
    dataset = tiny_dataset(4, samples=2)
    variants = len(dataset.kinds)
    assert dataset.pictures.shape == (4, variants, 32, 32, 3)
    assert dataset.pictures.dtype == np.uint8
    assert dataset.qualities.shape == (4, variants)
    assert dataset.qualities.dtype == np.float32
    assert len(set(dataset.kinds)) == variants
    assert dataset.kinds[0] == "truth"
    assert dataset.kinds[-2:] == ("restored/noise0.7/0", "restored/noise0.7/1")
    assert np.array_equal(dataset.pictures[2, 0], picture(12, 32, level=0.0))
    assert dataset.qualities[:, 0] == pytest.approx(1.0)
    assert dataset.qualities[:, 1:].max() < 1.0
    assert dataset.columns("restored/") == [variants - 2, variants - 1]
    assert len(dataset.columns("near/")) == 4


def test_stronger_noise_is_graded_worse_and_near_variants_are_near():
    dataset = tiny_dataset(6, size_px=64)
    light, strong = (dataset.kinds.index(f"truth/{kind}") for kind in ("noise-light", "noise"))
    assert (dataset.qualities[:, light] > dataset.qualities[:, strong]).all()
    spread = np.ptp(dataset.qualities, axis=1)
    near = np.ptp(dataset.qualities[:, dataset.columns("near/")], axis=1)
    assert near.mean() < 0.5 * spread.mean()
    assert (near > 0).all()


def test_a_seed_decides_the_variants():
    one, same, other = (tiny_dataset(2, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.pictures, same.pictures)
    assert np.array_equal(one.qualities, same.qualities)
    assert not np.array_equal(one.pictures, other.pictures)


@pytest.mark.parametrize("outputs", [[picture(0, 32)], [picture(0, 32), picture(1, 16)]])
def test_restorations_must_match_the_truths(outputs):
    truths = [picture(0, 32), picture(1, 32)]
    with pytest.raises(ValueError, match=r"restored\['a'\] must hold one picture a truth"):
        make_expert_dataset(truths, {"a": outputs}, seed=0)


# --------------------------------------------------------------------------------- grades


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """skimage's, on rounded luma, without the border that its padding spoils."""
    planes = [np.rint(image @ LUMA) for image in (x, y)]
    _, full = structural_similarity(
        *planes, data_range=255.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(full[5:-5, 5:-5].mean())


@pytest.mark.parametrize("seed", range(3))
def test_grades_are_the_metric_to_four_digits(seed):
    truth = picture(seed, 64, level=2.0)
    variants = np.stack(list(make_variants(truth, np.random.default_rng(seed)).values()))
    grades = ssim_luma(variants, truth)
    metrics = PictureMetrics(["ssim"])
    metrics.setup()
    assert grades == pytest.approx(metrics.score(list(variants), [truth] * len(variants))["ssim"], abs=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.floats(0.0, 20.0), st.integers(12, 40))
def test_grades_agree_with_another_implementation(seed, level, edge_px):
    truth = picture(seed, edge_px, level=3.0)
    noise = np.random.default_rng(seed).normal(0, level, truth.shape)
    changed = np.clip(truth + noise, 0, 255).astype(np.uint8)
    grades = ssim_luma(np.stack([truth, changed]), truth)
    assert grades[0] == pytest.approx(1.0, abs=1e-5)
    # It clips negative structure at 0, skimage does not: on strong noise it may be a little higher.
    assert grades[1] == pytest.approx(slow_ssim(changed, truth), abs=2e-3)


# --------------------------------------------------------------------------------- batches


def test_batches_hold_graded_pictures_of_the_contents_asked_for():
    dataset = tiny_dataset(4)
    batches = expert_batches(dataset, batch_size=2, seed=0, contents=[1, 3])
    for _ in range(6):
        batch = next(batches)
        assert batch["pictures"].shape == (2, NUM_DRAWN, 3, 32, 32)
        assert batch["qualities"].shape == (2, NUM_DRAWN)
        pixels = (batch["pictures"].numpy() * 255).round().astype(np.uint8).transpose(0, 1, 3, 4, 2)
        contents = [{which(dataset, p, q) for p, q in zip(*row, strict=True)}
                    for row in zip(pixels, batch["qualities"].numpy(), strict=True)]  # fmt: skip
        assert sorted(next(iter(c)) for c in contents) == [1, 3]
        assert all(len(c) == 1 for c in contents)


def which(dataset, pixels, quality) -> int:
    """The content a picture shows, plain or mirrored, with that grade."""
    graded = np.argwhere(dataset.qualities == quality)
    for content, variant in graded:
        known = dataset.pictures[content, variant]
        if np.array_equal(known, pixels) or np.array_equal(known[:, ::-1], pixels):
            return int(content)
    raise AssertionError("a picture that is not in the data set, or another's grade")


def test_a_batch_is_never_larger_than_the_contents_and_a_seed_decides_it():
    dataset = tiny_dataset(3)
    one, same, other = (next(expert_batches(dataset, batch_size=9, seed=s)) for s in (1, 1, 2))
    assert one["pictures"].shape[0] == 3
    assert one["pictures"].equal(same["pictures"])
    assert not one["qualities"].equal(other["qualities"])
