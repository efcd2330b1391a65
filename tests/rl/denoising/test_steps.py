"""Random steps against their papers as printed, torch's Normal, and flows that are known exactly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.methods import SAMPLERS as NAMES
from rl.denoising.samplers import SAMPLERS, Source, ddim_step, find_sampler, step_mean_std, unit_stds
from rl.denoising.steps import (
    flow_sigmas,
    gaussian_logprob,
    noise_from_x0,
    preserving_level,
    v_from_x0,
    velocity_from_x0,
    x0_from_noise,
    x0_from_v,
    x0_from_velocity,
)
from rl.errors import ConfigError
from tests.reference.denoising import GaussianFlow, ddim_epsilon_step, normal_logprob, step_from

quick = settings(deadline=None, max_examples=60)
numbers = st.floats(-3, 3, width=32)
noise_levels = st.sampled_from([0.0, 0.3, 0.7, 1.0])
sources = st.tuples(numbers, st.floats(0.05, 2.0))
every_sampler = pytest.mark.parametrize("kind", SAMPLERS)


@st.composite
def steps(draw):
    """A step (sigma, sigma_next) of some schedule, not the last one."""
    num = draw(st.integers(2, 20))
    sigmas = flow_sigmas(num, draw(st.sampled_from([1.0, 3.0])))
    index = draw(st.integers(0, num - 2))
    return sigmas[index].item(), sigmas[index + 1].item()


def latents(seed, *, rows=3):
    return torch.randn(rows, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------- one step


@every_sampler
@quick
@given(numbers, numbers, steps(), noise_levels, sources)
def test_a_step_is_the_papers(kind, x, v, step, noise, source):
    at = torch.tensor([[x]])
    clean = x0_from_velocity(at, torch.tensor([[v]]), step[0])
    mean, std = step_mean_std(kind, at, clean, *step, noise, Source(*source))
    want_mean, want_std = step_from(kind, x, v, step, noise, source)
    assert mean.item() == pytest.approx(want_mean, rel=1e-4, abs=1e-4)
    assert std.item() == pytest.approx(want_std, rel=1e-4, abs=1e-5)


@every_sampler
@quick
@given(st.integers(0, 99), steps(), noise_levels, sources)
def test_moving_and_scaling_the_world_moves_and_scales_the_step(kind, seed, step, noise, source):
    (y, s), x, clean = source, latents(seed), latents(seed + 100)
    mean, std = step_mean_std(kind, x, clean, *step, noise)
    there = Source(torch.full_like(x, y), s)
    moved_mean, moved_std = step_mean_std(kind, y + s * x, y + s * clean, *step, noise, there)
    torch.testing.assert_close(moved_mean, y + s * mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved_std, s * std)


@every_sampler
@quick
@given(st.integers(0, 99), steps())
def test_without_noise_it_is_eulers_step(kind, seed, step):
    x, clean, y = latents(seed), latents(seed + 1), latents(seed + 2)
    mean, std = step_mean_std(kind, x, clean, *step, 0.0, Source(y, 0.3))
    euler = x + (step[1] - step[0]) * velocity_from_x0(x, clean, step[0])
    torch.testing.assert_close(mean, euler, atol=1e-5, rtol=1e-5)
    assert not std.any()


@every_sampler
def test_the_last_step_is_deterministic_and_lands_on_the_prediction(kind):
    x, clean = latents(0), latents(1)
    mean, std = step_mean_std(kind, x, clean, 0.25, 0.0, 0.7, Source(latents(2), 0.1))
    torch.testing.assert_close(mean, clean)
    assert not std.any()
    assert not gaussian_logprob(mean, mean, std).any()


@every_sampler
@quick
@given(st.integers(0, 99), st.lists(steps(), min_size=3, max_size=3), noise_levels)
def test_rows_may_be_at_different_steps(kind, seed, each, noise):
    x, clean, y = latents(seed), latents(seed + 1), latents(seed + 2)
    sigma, sigma_next = torch.tensor(each).T
    mean, std = step_mean_std(kind, x, clean, sigma, sigma_next, noise, Source(y, 0.2))
    assert std.shape == (3, 1, 1, 1)
    for i, step in enumerate(each):
        one = slice(i, i + 1)
        mean_i, std_i = step_mean_std(kind, x[one], clean[one], *step, noise, Source(y[one], 0.2))
        torch.testing.assert_close(mean[one], mean_i)
        torch.testing.assert_close(std[one], std_i)


@every_sampler
def test_half_precision_in_is_single_precision_out(kind):
    x, clean = latents(0).bfloat16(), latents(1).bfloat16()
    mean, std = step_mean_std(kind, x, clean, 0.5, 0.25, 0.7)
    exact, _ = step_mean_std(kind, x.double(), clean.double(), 0.5, 0.25, 0.7)
    assert mean.dtype == std.dtype == torch.float32
    assert torch.equal(mean, exact)


@every_sampler
@quick
@given(st.integers(1, 12), st.sampled_from([1.0, 3.0]), noise_levels, st.floats(0.05, 2.0))
def test_deviations_of_a_schedule_are_those_of_its_steps(kind, num_steps, shift, noise, s):
    sigmas = flow_sigmas(num_steps, shift)
    found = unit_stds(kind, sigmas[None], torch.tensor([noise]))
    assert found.shape == (1, num_steps)
    x, clean = latents(0, rows=1), latents(1, rows=1)
    for k in range(num_steps):
        _, std = step_mean_std(kind, x, clean, sigmas[k], sigmas[k + 1], noise, Source(0.3, s))
        assert s * found[0, k].item() == pytest.approx(std.item(), rel=1e-5)


@every_sampler
@pytest.mark.parametrize("step", [(1.0, 0.75), (0.5, 0.25)])
def test_ten_thousand_samples_have_the_closed_forms_moments(kind, step):
    x, v, noise, source = 0.4, -0.9, 0.6, (0.7, 0.2)
    rows = torch.full((10_000, 1), x)
    mean, std = step_mean_std(
        kind, rows, x0_from_velocity(rows, v + 0 * rows, step[0]), *step, noise, Source(*source)
    )
    drawn = (mean + std * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))).double()
    want_mean, want_std = step_from(kind, x, v, step, noise, source)
    assert drawn.mean().item() == pytest.approx(want_mean, abs=4 * want_std / 100)
    assert drawn.var().item() == pytest.approx(want_std**2, rel=4 * math.sqrt(2) / 100)


# --------------------------------------------------------------------------------- log-probs


@quick
@given(st.integers(0, 99), st.floats(0.05, 2.0))
def test_logprob_equals_torchs_normal(seed, scale):
    x_next, mean = latents(seed), latents(seed + 1)
    std = torch.full((3, 1, 1, 1), scale)
    want = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(x_next).mean(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian_logprob(x_next, mean, std), want)
    torch.testing.assert_close(gaussian_logprob(x_next, mean, std, "sum"), want * mean[0].numel())


def walk(kind, num_steps, noise, shift, seeds):
    """Sample a batch with one seed a row: latents ``[B, K+1, ...]``, log-probs ``[B, K]``, sigmas and source."""
    sigmas = flow_sigmas(num_steps, shift)
    y = torch.cat([latents(seed, rows=1) for seed in seeds])
    source = Source(y, 0.1)
    x = y + 0.1 * torch.cat([latents(100 + seed, rows=1) for seed in seeds])
    stored, logprobs = [x], []
    for k in range(num_steps):
        mean, std = step_mean_std(kind, x, predicted(x, y), sigmas[k], sigmas[k + 1], noise, source)
        x = mean + std * torch.cat([latents(1000 * (k + 1) + seed, rows=1) for seed in seeds])
        stored.append(x)
        logprobs.append(gaussian_logprob(x, mean, std))
    return torch.stack(stored, dim=1), torch.stack(logprobs, dim=1), sigmas, source


def predicted(x, y):
    return torch.tanh(x) + 0.1 * y


@every_sampler
@pytest.mark.parametrize("num_steps", [2, 5, 10])
@pytest.mark.parametrize("noise", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_recomputation_from_stored_latents_gives_the_behaviour_logprobs(kind, num_steps, noise, shift):
    stored, behaviour, sigmas, source = walk(kind, num_steps, noise, shift, seeds=range(4))
    assert not behaviour[:, -1].any()
    for rows in ([0, 1, 2, 3], [2, 0], [3]):
        # All steps of some pictures in one batch, as a learner has them.
        x, x_next = stored[rows, :-1].flatten(0, 1), stored[rows, 1:].flatten(0, 1)
        y = source.mean[rows].repeat_interleave(num_steps, dim=0)
        now, after = sigmas[:-1].repeat(len(rows)), sigmas[1:].repeat(len(rows))
        mean, std = step_mean_std(kind, x, predicted(x, y), now, after, noise, Source(y, 0.1))
        found = gaussian_logprob(x_next, mean, std).reshape(len(rows), num_steps)
        torch.testing.assert_close(found, behaviour[rows], atol=1e-5, rtol=0)


@every_sampler
def test_recorded_logprobs_are_the_papers_in_double_precision(kind):
    stored, behaviour, sigmas, source = walk(kind, 5, 0.7, 1.0, seeds=[1])
    y = source.mean[0].double().numpy()
    for k in range(4):
        now, after = sigmas[k].item(), sigmas[k + 1].item()
        x = stored[0, k]
        v = ((x - predicted(x, source.mean[0])) / now).double().numpy().ravel()
        at = x.double().numpy().ravel()
        each = [
            step_from(kind, *row, (now, after), 0.7, (there, 0.1))
            for *row, there in zip(at, v, y.ravel(), strict=True)
        ]
        mean, std = np.array([m for m, _ in each]), each[0][1]
        want = normal_logprob(stored[0, k + 1].numpy().ravel(), mean, std)
        assert behaviour[0, k].item() == pytest.approx(want, abs=1e-4)


def test_deterministic_rows_have_no_gradient_and_no_nan():
    mean = latents(0).requires_grad_()
    std = torch.tensor([0.0, 0.5, 0.0]).reshape(3, 1, 1, 1)
    gaussian_logprob(latents(1), mean, std).sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert not mean.grad[[0, 2]].any()
    assert mean.grad[1].any()


@every_sampler
def test_gradients_are_finite_at_both_ends(kind):
    x, clean = latents(0), latents(1).requires_grad_()
    sigma, sigma_next = torch.tensor([1.0, 1.0, 0.2]), torch.tensor([0.8, 0.99, 0.0])
    mean, std = step_mean_std(kind, x, clean, sigma, sigma_next, 1.0, Source(latents(2), 0.1))
    (mean.sum() + gaussian_logprob(latents(3), mean, std).sum()).backward()
    assert torch.isfinite(std).all()
    assert torch.isfinite(clean.grad).all()


# --------------------------------------------------------------------------------- marginals

FLOWS = {
    "noise": GaussianFlow(m=0.5, c=0.6, y=0.0, s=1.0),
    "bridge": GaussianFlow(m=1.0, c=0.3, y=-0.5, s=0.2),
}


def carried(flow, kind, sigmas, noise_of):
    """Mean and variance at every level, with ``noise_of(now, after)`` as the noise level."""

    def step(x, clean, now, after):
        source = Source(flow.y, flow.s)
        return step_mean_std(kind, x, clean, now, after, noise_of(now, after), source)

    return flow.moments(sigmas, step)


@every_sampler
@pytest.mark.parametrize("noise", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_in_the_limit_of_small_steps_marginals_are_kept(kind, flow, noise):
    # Steps shrink towards sigma 1, where Flow-GRPO's noise grows without bound, and towards 0, where DanceGRPO's
    # stays large. A fixed share of CPS has no limit: it must shrink with the step.
    sigmas = (0.5 + 0.5 * torch.cos(torch.linspace(0, math.pi, 1001))).tolist()
    share = (lambda now, after: noise * math.sqrt(now - after)) if kind == "cps" else (lambda *_: noise)
    moments = carried(flow, kind, sigmas, share)
    for index in (300, 600, 900, 1000):
        mean, var = moments[index]
        assert mean == pytest.approx(flow.mean(sigmas[index]), abs=0.02 * flow.var(sigmas[index]) ** 0.5)
        assert var == pytest.approx(flow.var(sigmas[index]), rel=0.04)


@pytest.mark.parametrize("kind", ["cps", "ddim"])
@pytest.mark.parametrize("noise", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_steps", [2, 5])
def test_for_one_known_picture_few_preserving_steps_keep_them_exactly(kind, noise, num_steps):
    flow, sigmas = GaussianFlow(m=1.0, c=0.0, y=-0.5, s=0.2), flow_sigmas(num_steps, 3.0).tolist()
    for sigma, (mean, var) in zip(sigmas, carried(flow, kind, sigmas, lambda *_: noise), strict=True):
        assert mean == pytest.approx(flow.mean(sigma), abs=1e-5)
        assert var == pytest.approx(flow.var(sigma), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("kind", ["flow_grpo", "dance"])
def test_for_one_known_picture_few_sde_steps_do_not(kind):
    flow, sigmas = GaussianFlow(m=1.0, c=0.0, y=0.0, s=1.0), flow_sigmas(5).tolist()
    moments = carried(flow, kind, sigmas, lambda *_: 0.7)
    assert moments[4][1] > 1.05 * flow.var(sigmas[4])


def test_with_a_fixed_share_cps_makes_pictures_too_much_alike_however_many_steps():
    flow, share = FLOWS["noise"], 0.7
    spreads = [carried(flow, "cps", flow_sigmas(num).tolist(), lambda *_: share)[-1][1] for num in (10, 1000)]
    assert spreads[0] < 0.8 * flow.var(0.0)
    assert spreads[1] == pytest.approx(flow.var(0.0) * (1 + math.cos(share * math.pi / 2)) / 2, rel=0.01)


# --------------------------------------------------------------------------------- epsilon- and v-models

alpha_bars = st.tuples(st.floats(0.01, 0.6), st.floats(0.62, 0.99))


@quick
@given(numbers, numbers, alpha_bars, noise_levels)
def test_ddim_on_a_preserving_model_is_the_papers(x, eps, shares, eta):
    at, (signal, noise) = torch.tensor([[x]]), preserving_level(shares[0], torch.zeros(1, 1))
    clean = x0_from_noise(at, torch.tensor([[eps]]), signal, noise)
    mean, std = ddim_step(at, clean, *shares, eta)
    want_mean, want_std = ddim_epsilon_step(x, eps, *shares, eta)
    assert mean.item() == pytest.approx(want_mean, rel=1e-4, abs=1e-4)
    assert std.item() == pytest.approx(want_std, rel=1e-4, abs=1e-5)


@quick
@given(st.integers(0, 99), st.floats(0.01, 0.99))
def test_predictions_say_the_same(seed, share):
    x0, eps = latents(seed), latents(seed + 1)
    signal, noise = preserving_level(share, x0)
    x, v = signal * x0 + noise * eps, signal * eps - noise * x0
    close = {"atol": 1e-4, "rtol": 1e-3}
    torch.testing.assert_close(x0_from_noise(x, eps, signal, noise), x0, **close)
    torch.testing.assert_close(noise_from_x0(x, x0, signal, noise), eps, **close)
    torch.testing.assert_close(x0_from_v(x, v, signal, noise), x0, **close)
    torch.testing.assert_close(v_from_x0(x, x0, signal, noise), v, **close)
    torch.testing.assert_close(x0_from_velocity(x, velocity_from_x0(x, x0, share), share), x0, **close)


def test_a_flow_is_a_preserving_model_up_to_its_scale():
    y, s, now, after = latents(0), 0.3, 0.8, 0.6
    x, clean = latents(1), latents(2)
    mean, std = step_mean_std("ddim", x, clean, now, after, 0.7, Source(y, s))
    radius = [math.hypot(1 - t, t * s) for t in (now, after)]
    shares = [((1 - t) / r) ** 2 for t, r in zip((now, after), radius, strict=True)]
    want_mean, want_std = ddim_step((x - now * y) / radius[0], clean, *shares, 0.7)
    torch.testing.assert_close(mean, after * y + radius[1] * want_mean)
    torch.testing.assert_close(std, radius[1] * want_std)


def test_pure_noise_and_clean_pictures_are_no_exceptions():
    x, x0 = latents(0), latents(1)
    signal, noise = preserving_level(0.0, x)
    assert torch.equal(x0_from_v(x, -x0, signal, noise), x0)
    mean, std = ddim_step(x, x0, 0.0, 0.5, 1.0)
    torch.testing.assert_close(mean, math.sqrt(0.5) * x0)
    torch.testing.assert_close(std, torch.full((3, 1, 1, 1), math.sqrt(0.5)))
    mean, std = ddim_step(x, x0, 0.5, 1.0, 1.0)
    torch.testing.assert_close(mean, x0)
    assert not std.any()


# --------------------------------------------------------------------------------- schedules


@quick
@given(st.integers(1, 50), st.sampled_from([0.5, 1.0, 3.0]))
def test_schedule(num_steps, shift):
    sigmas = flow_sigmas(num_steps, shift)
    assert sigmas.shape == (num_steps + 1,)
    assert (sigmas[0], sigmas[-1]) == (1, 0)
    assert (sigmas[1:] < sigmas[:-1]).all()


@pytest.mark.parametrize(("num_steps", "shift"), [(0, 1.0), (3, 0.0)])
def test_impossible_schedules_are_refused(num_steps, shift):
    with pytest.raises(ValueError, match="want num_steps"):
        flow_sigmas(num_steps, shift)


# ------------------------------------------------------------------------------- the user's own

OWN = "tests.reference.own_methods"


def test_every_name_has_a_sampler():
    assert tuple(SAMPLERS) == NAMES


def test_a_sampler_of_ones_own_takes_its_own_step():
    x, clean = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = step_mean_std(f"{OWN}:HALF_DANCE", x, clean, 0.8, 0.6, 0.4)
    want_mean, want_std = step_mean_std("dance", x, clean, 0.8, 0.6, 0.2)
    torch.testing.assert_close(mean, want_mean)
    torch.testing.assert_close(std, want_std)
    sigmas = torch.tensor([[1.0, 0.5, 0.0]])
    own, ours = (
        unit_stds(kind, sigmas, torch.tensor([level]))
        for kind, level in ((f"{OWN}:HALF_DANCE", 0.4), ("dance", 0.2))
    )
    torch.testing.assert_close(own, ours)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{OWN}:HALF_DANSE", "did you mean HALF_DANCE?"),
        (f"{OWN}:half_std", "is no rl.denoising.samplers.Sampler; write Sampler(std=..., mean=...)"),
        (f"{OWN}:BROKEN", "too many positional arguments; want"),
    ],
)
def test_a_sampler_that_cannot_be_used_costs_one_line(target, message):
    with pytest.raises(ConfigError) as caught:
        find_sampler(target, "policies.image.rollout.sampler")
    assert str(caught.value).startswith("policies.image.rollout.sampler: ")
    assert message in str(caught.value)
