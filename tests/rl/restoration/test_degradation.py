"""Kernels, resizing, noise, JPEG, the record and the labels that follow from it."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.errors import ConfigError
from rl.restoration import degradation as dg
from rl.restoration import kernels, labels
from rl.restoration.presets import PRESETS, get_preset
from tests.reference import degradation_ref

odd_sizes = st.integers(1, 10).map(lambda half: 2 * half + 1)
sigmas = st.floats(0.1, 4.0)
angles = st.floats(-math.pi, math.pi)
preset_names = st.sampled_from(sorted(PRESETS))
seeds = st.integers(0, 2**63 - 1)


def photo(height: int = 64, width: int = 64, *, seed: int = 0) -> np.ndarray:
    """Smooth colour with some texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 64
    smooth = 0.5 + 0.3 * np.stack([np.sin(5 * x + y), np.cos(4 * y), np.sin(3 * x * y)], axis=2)
    return kernels.to_bytes((smooth + 0.05 * rng.standard_normal(smooth.shape)).astype(np.float32))


def planes(height: int = 40, width: int = 40, *, value: float | None = None) -> np.ndarray:
    if value is not None:
        return np.full((3, height, width), value, np.float32)
    return np.ascontiguousarray(photo(height, width).transpose(2, 0, 1)).astype(np.float32) / 255


# ------------------------------------------------------------------------------ kernels


@settings(deadline=None)
@given(size=odd_sizes, sigma_x=sigmas, sigma_y=sigmas, rotation=angles, beta=st.floats(0.5, 4.0),
       shape=st.sampled_from(["gaussian", "generalized", "plateau"]))  # fmt: skip
def test_blur_kernels_sum_to_one_and_mirror_through_the_centre(size, sigma_x, sigma_y, rotation, beta, shape):
    kernel = kernels.blur_kernel(
        size, sigma_x=sigma_x, sigma_y=sigma_y, rotation=rotation, shape=shape, beta=beta
    )
    assert kernel.shape == (size, size)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.min() >= 0
    assert kernel.argmax() == kernel.size // 2
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


@settings(deadline=None)
@given(size=odd_sizes, sigma=sigmas, rotation=angles, beta=st.floats(0.5, 4.0),
       shape=st.sampled_from(["gaussian", "generalized", "plateau"]))  # fmt: skip
def test_isotropic_kernels_have_all_symmetries_and_no_direction(size, sigma, rotation, beta, shape):
    options = {"sigma_x": sigma, "sigma_y": sigma, "shape": shape, "beta": beta}
    kernel = kernels.blur_kernel(size, rotation=0.0, **options)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-6)
    np.testing.assert_allclose(kernel, kernels.blur_kernel(size, rotation=rotation, **options), atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(size=odd_sizes, sigma_x=sigmas, sigma_y=sigmas, rotation=angles)
def test_gaussian_kernel_is_the_reference(size, sigma_x, sigma_y, rotation):
    kernel = kernels.blur_kernel(
        size, sigma_x=sigma_x, sigma_y=sigma_y, rotation=rotation, shape="gaussian", beta=1.0
    )
    np.testing.assert_allclose(kernel, degradation_ref.gaussian(size, sigma_x, sigma_y, rotation), atol=1e-6)


@settings(deadline=None)
@given(size=odd_sizes, cutoff=st.floats(math.pi / 5, math.pi))
def test_sinc_kernel_sums_to_one_is_symmetric_and_rings(size, cutoff):
    kernel = kernels.sinc_kernel(size, cutoff)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-6)
    if size * cutoff > 14:
        assert kernel.min() < 0


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd"):
        kernels.sinc_kernel(4, 1.0)


@pytest.mark.parametrize(("height", "width", "size"), [(12, 9, 5), (6, 7, 11), (5, 4, 13)])
def test_filter_is_the_slow_correlation(height, width, size):
    rng = np.random.default_rng(0)
    values = rng.random((3, height, width), dtype=np.float32)
    kernel = rng.random((size, size), dtype=np.float32)
    want = degradation_ref.correlate(values, kernel)
    np.testing.assert_allclose(kernels.filter_planes(values, kernel), want, rtol=1e-4)


@settings(deadline=None, max_examples=60)
@given(height=st.integers(4, 40), width=st.integers(4, 40), to_height=st.integers(4, 60),
       to_width=st.integers(4, 60), mode=st.sampled_from(kernels.RESIZE_MODES))  # fmt: skip
def test_resize_is_torchs(height, width, to_height, to_width, mode):
    values = planes(height, width)
    got = kernels.resize_planes(values, to_height, to_width, mode)
    options = {} if mode == "area" else {"align_corners": False}
    tensor = torch.from_numpy(values)[None]
    want = torch.nn.functional.interpolate(tensor, size=(to_height, to_width), mode=mode, **options)
    np.testing.assert_allclose(got, want[0].numpy(), atol=2e-5)


# -------------------------------------------------------------------------- noise and JPEG


@pytest.mark.parametrize("level", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_the_recorded_level(level, gray):
    clean = planes(200, 200, value=0.5)
    noise = (
        dg.add_noise(clean, dg.Noise(kind="gaussian", level=level, gray=gray), np.random.default_rng(0))
        - clean
    )
    assert noise.std() * 255 == pytest.approx(level, rel=0.03)
    assert abs(noise.mean()) * 255 < 0.03 * level
    assert np.ptp(noise, axis=0).max() < 1e-6 if gray else np.ptp(noise, axis=0).max() * 255 > level


@pytest.mark.parametrize("level", [0.5, 2.0])
@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise_follows_brightness_and_number_of_levels(level, gray):
    clean = planes(200, 256, value=0.0) + (np.arange(256, dtype=np.float32) // 64 * 40 + 60) / 255
    clean = clean.astype(np.float32)
    peak = 4  # four grey levels
    noise = dg.add_noise(clean * 1, dg.Noise(kind="poisson", level=0.1 * level, gray=gray),
                         np.random.default_rng(0)) - clean  # fmt: skip
    for start in (0, 64, 128, 192):
        part, value = noise[:, :, start : start + 64], clean[0, 0, start]
        assert part.std() == pytest.approx(0.1 * level * math.sqrt(value / peak), rel=0.05)
    assert (np.ptp(noise, axis=0).max() < 1e-6) == gray


def test_noise_is_clipped():
    noisy = dg.add_noise(
        planes(), dg.Noise(kind="gaussian", level=200.0, gray=False), np.random.default_rng(0)
    )
    assert noisy.min() == 0
    assert noisy.max() == 1
    assert noisy.dtype == np.float32


def test_jpeg_error_falls_with_quality():
    clean = planes(96, 96)
    errors = [float(np.square(dg.jpeg(clean, quality) - clean).mean()) for quality in range(20, 100, 5)]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


# ------------------------------------------------------------------------------- the whole


@settings(deadline=None, max_examples=60)
@given(name=preset_names, seed=seeds, scale=st.sampled_from([2, 4]), rows=st.integers(1, 24),
       columns=st.integers(1, 24))  # fmt: skip
def test_size_is_exact_and_bytes_follow_from_the_seed(name, seed, scale, rows, columns):
    truth = photo(rows * scale, columns * scale)
    low, record = dg.degrade(truth, scale=scale, preset=name, seed=seed)
    again, same = dg.degrade(truth.copy(), scale=scale, preset=name, seed=seed)
    assert low.shape == (rows, columns, 3)
    assert low.dtype == np.uint8
    assert np.array_equal(low, again)
    assert record == same


def within(value: float, span: tuple[float, float]) -> bool:
    return span[0] - 1e-9 <= value <= span[1] + 1e-9


@settings(deadline=None, max_examples=200)
@given(name=preset_names, seed=seeds, edge=st.sampled_from([16, 64, 200, 400, 900]))
def test_record_is_complete_and_inside_the_preset(name, seed, edge):
    preset = get_preset(name)
    record = dg.draw(preset, edge, edge + 8, np.random.default_rng(seed))
    assert record.preset == name
    assert record.shrink == max(preset.min_shrink, min(1.0, edge / preset.reference_px))
    for order, limits in ((record.first, preset.first), (record.second, preset.second)):
        blur, resize = order.blur, order.resize
        if blur.kind in dg.KERNEL_KINDS:
            assert within(blur.sigma_x / record.shrink, limits.sigma)
            assert within(blur.sigma_y / record.shrink, limits.sigma)
            assert (blur.beta > 0) == (blur.kind not in ("iso", "aniso"))
            assert blur.kind.endswith("aniso") or blur.sigma_x == blur.sigma_y
        elif blur.kind == dg.SINC:
            assert within(blur.cutoff, (dg.lowest_cutoff(blur.size), math.pi))
        else:
            assert blur == dg.Blur(kind=dg.NO_BLUR)
            assert limits.blur_prob < 1
        assert blur.kind == dg.NO_BLUR or (blur.size % 2 == 1 and 3 <= blur.size <= limits.kernel_sizes[1])
        assert within(resize.scale, limits.resize_range)
        assert (
            resize.direction == {-1: "downsample", 0: "keep", 1: "upsample"}[int(np.sign(resize.scale - 1))]
        )
        assert within(
            order.noise.level, limits.noise_sigma if order.noise.kind == "gaussian" else limits.poisson_scale
        )
        assert within(order.quality, limits.jpeg_quality)
    assert record.tail in (dg.RESIZE_FIRST, dg.JPEG_FIRST)
    assert record.final_sinc.kind in (dg.SINC, dg.NO_BLUR)
    assert dataclasses.asdict(record)


def test_full_size_kernels_are_the_published_ones():
    sizes = {
        dg.draw(PRESETS["realesrgan"], 400, 400, np.random.default_rng(i)).first.blur.size for i in range(300)
    }
    assert sizes == set(range(7, 22, 2))
    small = {
        dg.draw(PRESETS["realesrgan"], 64, 64, np.random.default_rng(i)).first.blur.size for i in range(300)
    }
    assert small == set(range(3, 12, 2))


def test_draws_have_the_published_frequencies():
    records = [dg.draw(PRESETS["realesrgan"], 400, 400, np.random.default_rng(i)) for i in range(4000)]
    share = {
        "sinc first": (np.mean([r.first.blur.kind == dg.SINC for r in records]), 0.1),
        "iso": (np.mean([r.first.blur.kind == "iso" for r in records]), 0.9 * 0.45),
        "plateau aniso": (np.mean([r.first.blur.kind == "plateau_aniso" for r in records]), 0.9 * 0.03),
        "no second blur": (np.mean([r.second.blur.kind == dg.NO_BLUR for r in records]), 0.2),
        "down": (np.mean([r.first.resize.direction == "downsample" for r in records]), 0.7),
        "second up": (np.mean([r.second.resize.direction == "upsample" for r in records]), 0.3),
        "gaussian": (np.mean([r.first.noise.kind == "gaussian" for r in records]), 0.5),
        "gray": (np.mean([r.second.noise.gray for r in records]), 0.4),
        "final sinc": (np.mean([r.final_sinc.kind == dg.SINC for r in records]), 0.8),
        "resize first": (np.mean([r.tail == dg.RESIZE_FIRST for r in records]), 0.5),
        "area": (np.mean([r.tail_mode == "area" for r in records]), 1 / 3),
    }
    for name, (got, want) in share.items():
        assert got == pytest.approx(want, abs=4 * math.sqrt(want * (1 - want) / 4000)), name


@pytest.mark.parametrize("tail", [dg.RESIZE_FIRST, dg.JPEG_FIRST])
def test_harmless_record_only_scales_down(tail):
    harmless = dg.Order(
        blur=dg.Blur(kind=dg.NO_BLUR),
        resize=dg.Resize(direction="keep", scale=1.0, mode="area"),
        noise=dg.Noise(kind="gaussian", level=0.0, gray=False),
        quality=100,
    )
    record = dg.DegradationRecord(
        preset="mild", shrink=1.0, first=harmless, second=harmless, tail=tail, tail_mode="area",
        final_sinc=dg.Blur(kind=dg.NO_BLUR),
    )  # fmt: skip
    y, x = np.mgrid[:64, :64].astype(np.float32) / 64
    truth = kernels.to_bytes(np.stack([x, (x + y) / 2, y], axis=2))
    low = dg.apply(truth, record, scale=4, rng=np.random.default_rng(0)).astype(float)
    want = truth.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(low - want).mean() < 2.5


def test_sizes_that_do_not_divide_and_unknown_presets_are_refused():
    with pytest.raises(ValueError, match="divisible by scale 4"):
        dg.degrade(photo(30, 32), scale=4, preset="mild", seed=0)
    with pytest.raises(ConfigError, match=r"data\.degradation=hard.*realesrgan"):
        dg.degrade(photo(), scale=4, preset="hard", seed=0)


def test_mild_leaves_more_than_light_than_realesrgan():
    def error(name: str) -> float:
        total = 0.0
        for seed in range(60):
            truth = photo(seed=seed)
            low, _ = dg.degrade(truth, scale=4, preset=name, seed=seed)
            clean = truth.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
            total += float(np.square(low - clean).mean())
        return total

    assert error("mild") < error("realesrgan")
    assert error("light") < error("realesrgan")


# --------------------------------------------------------------------------------- labels


@settings(deadline=None, max_examples=150)
@given(name=preset_names, seed=seeds, edge=st.sampled_from([64, 400]))
def test_labels_are_in_the_vocabulary(name, seed, edge):
    record = dg.draw(get_preset(name), edge, edge, np.random.default_rng(seed))
    words = labels.label(record)
    assert len(words) == len(labels.SLOTS)
    assert all(word in known for word, known in zip(words, labels.VOCABULARY, strict=True))
    assert (words[1], words[4]) == (record.first.resize.direction, record.second.resize.direction)
    assert labels.degradation_text(words) in labels.all_degradation_texts()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_level_is_drawn(name):
    words = [labels.label(dg.draw(PRESETS[name], 64, 64, np.random.default_rng(i))) for i in range(600)]
    for slot, known in enumerate(labels.VOCABULARY):
        counts = [sum(word[slot] == one for word in words) for one in known]
        assert min(counts) > 25, (slot, counts)


def changed(record: dg.DegradationRecord, order: str, **parts) -> dg.DegradationRecord:
    return dataclasses.replace(record, **{order: dataclasses.replace(getattr(record, order), **parts)})


def test_labels_follow_the_strongest_of_both_orders():
    weak = dg.Order(
        blur=dg.Blur(kind="iso", size=7, sigma_x=0.2, sigma_y=0.2),
        resize=dg.Resize(direction="keep", scale=1.0, mode="area"),
        noise=dg.Noise(kind="gaussian", level=1.0, gray=False),
        quality=95,
    )
    base = dg.DegradationRecord(
        preset="realesrgan", shrink=1.0, first=weak, second=weak, tail=dg.JPEG_FIRST, tail_mode="area",
        final_sinc=dg.Blur(kind=dg.NO_BLUR),
    )  # fmt: skip
    assert labels.label(base) == ("light", "keep", "light", "light", "keep")
    for order in ("first", "second"):
        strong_blur = changed(base, order, blur=dg.Blur(kind="iso", size=7, sigma_x=2.9, sigma_y=2.9))
        assert labels.label(strong_blur)[0] == "heavy"
        for level, want in ((10.0, "light"), (11.0, "medium"), (20.0, "medium"), (21.0, "heavy")):
            noisy = changed(base, order, noise=dg.Noise(kind="gaussian", level=level, gray=True))
            assert labels.label(noisy)[2] == want
        for quality, want in ((74, "light"), (73, "medium"), (52, "medium"), (51, "heavy")):
            assert labels.label(changed(base, order, quality=quality))[3] == want
    poisson = changed(base, "first", noise=dg.Noise(kind="poisson", level=2.5, gray=False))
    assert labels.label(poisson)[2] == "heavy"
    ringing = changed(base, "second", blur=dg.Blur(kind=dg.SINC, size=21, cutoff=math.pi / 5))
    assert labels.label(ringing)[0] == "heavy"
    shrunk = dataclasses.replace(
        changed(base, "first", blur=dg.Blur(kind="iso", size=7, sigma_x=1.3, sigma_y=1.3)), shrink=0.5
    )
    assert labels.label(shrunk)[0] == "heavy"


def test_degradation_text():
    words = ("medium", "downsample", "light", "heavy", "upsample")
    assert (
        labels.degradation_text(words) == "medium blur, downsample, light noise, heavy compression, upsample"
    )
    texts = labels.all_degradation_texts()
    assert len(set(texts)) == 3**5
    assert labels.slot_texts(("soft", "dust")) == ("soft", "dust")
