"""The stochastic step against Flow-GRPO as printed, torch's Normal, and a flow that is known exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.denoising import flow_sigmas, gaussian_logprob, sde_mean_std, stochastic_steps, velocity_from_x0
from tests.reference.denoising import GaussianFlow, flow_grpo_step

quick = settings(deadline=None, max_examples=60)
numbers = st.floats(-3, 3, width=32)
noise_levels = st.sampled_from([0.0, 0.3, 0.7, 1.0])


@st.composite
def steps(draw):
    """A step (sigma, sigma_next) of some schedule, not the last one."""
    num = draw(st.integers(2, 20))
    sigmas = flow_sigmas(num, draw(st.sampled_from([1.0, 3.0])))
    index = draw(st.integers(0, num - 2))
    return sigmas[index].item(), sigmas[index + 1].item()


def latents(seed, *, rows=3):
    return torch.randn(rows, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


@quick
@given(numbers, numbers, steps(), noise_levels)
def test_without_a_source_it_is_flow_grpo(x, v, step, noise):
    mean, std = sde_mean_std(torch.tensor([[x]]), torch.tensor([[v]]), *step, noise)
    want_mean, want_std = flow_grpo_step(x, v, *step, noise)
    assert mean.item() == pytest.approx(want_mean, rel=1e-5, abs=1e-5)
    assert std.item() == pytest.approx(want_std, rel=1e-5, abs=1e-6)


@quick
@given(st.integers(0, 99), steps(), noise_levels, numbers, st.floats(0.05, 2.0))
def test_moving_and_scaling_the_world_moves_and_scales_the_step(seed, step, noise, y, s):
    x, v = latents(seed), latents(seed + 100)
    mean, std = sde_mean_std(x, v, *step, noise)
    moved_mean, moved_std = sde_mean_std(y + s * x, s * v, *step, noise, torch.full_like(x, y), s)
    torch.testing.assert_close(moved_mean, y + s * mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved_std, s * std)


@quick
@given(st.integers(0, 99), steps())
def test_without_noise_it_is_eulers_step(seed, step):
    x, v = latents(seed), latents(seed + 1)
    mean, std = sde_mean_std(x, v, *step, 0.0, latents(seed + 2), 0.3)
    torch.testing.assert_close(mean, x + (step[1] - step[0]) * v)
    assert not std.any()


def test_the_last_step_is_deterministic_and_lands_on_the_prediction():
    x, x0 = latents(0), latents(1)
    mean, std = sde_mean_std(x, velocity_from_x0(x, x0, 0.25), 0.25, 0.0, 0.7)
    torch.testing.assert_close(mean, x0)
    assert not std.any()
    assert not gaussian_logprob(mean, mean, std).any()


@quick
@given(st.integers(0, 99), st.lists(steps(), min_size=3, max_size=3), noise_levels)
def test_rows_may_be_at_different_steps(seed, each, noise):
    x, v, y = latents(seed), latents(seed + 1), latents(seed + 2)
    sigma, sigma_next = torch.tensor(each).T
    mean, std = sde_mean_std(x, v, sigma, sigma_next, noise, y, 0.2)
    assert std.shape == (3, 1, 1, 1)
    for i, step in enumerate(each):
        one = slice(i, i + 1)
        mean_i, std_i = sde_mean_std(x[one], v[one], *step, noise, y[one], 0.2)
        torch.testing.assert_close(mean[one], mean_i)
        torch.testing.assert_close(std[one], std_i)


@quick
@given(st.integers(0, 99), st.floats(0.05, 2.0))
def test_logprob_equals_torchs_normal(seed, scale):
    x_next, mean = latents(seed), latents(seed + 1)
    std = torch.full((3, 1, 1, 1), scale)
    want = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(x_next).mean(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian_logprob(x_next, mean, std), want)


def test_recomputation_from_stored_latents_is_exact():
    sigmas, y, s, noise = flow_sigmas(6), latents(5), 0.1, 0.7
    x = y + s * latents(6)
    stored, behaviour = [x], []
    for k in range(6):
        mean, std = sde_mean_std(x, torch.tanh(x), sigmas[k], sigmas[k + 1], noise, y, s)
        x = mean + std * latents(10 + k)
        stored.append(x)
        behaviour.append(gaussian_logprob(x, mean, std))
    for k in range(6):
        mean, std = sde_mean_std(stored[k], torch.tanh(stored[k]), sigmas[k], sigmas[k + 1], noise, y, s)
        assert torch.equal(gaussian_logprob(stored[k + 1], mean, std), behaviour[k])


def test_deterministic_rows_have_no_gradient_and_no_nan():
    mean = latents(0).requires_grad_()
    std = torch.tensor([0.0, 0.5, 0.0]).reshape(3, 1, 1, 1)
    gaussian_logprob(latents(1), mean, std).sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert not mean.grad[[0, 2]].any()
    assert mean.grad[1].any()


@pytest.mark.parametrize("noise", [0.0, 0.4, 0.7, 1.0])
@pytest.mark.parametrize(
    "flow",
    [GaussianFlow(m=0.5, c=0.6, y=0.0, s=1.0), GaussianFlow(m=1.0, c=0.3, y=-0.5, s=0.2)],
    ids=["noise", "bridge"],
)
def test_the_sde_keeps_the_flows_marginals(flow, noise):
    # Steps shrink towards sigma 1, where the noise grows without bound.
    sigmas = 1 - torch.linspace(0, 1, 401) ** 2
    generator = torch.Generator().manual_seed(0)
    x = flow.source(20_000, generator)
    seen = {}
    for now, after in zip(sigmas.tolist(), sigmas[1:].tolist(), strict=False):
        velocity = flow.velocity(x, now)
        mean, std = sde_mean_std(x, velocity, now, after, noise, torch.full_like(x, flow.y), flow.s)
        x = mean + std * torch.randn(x.shape, generator=generator)
        seen[after] = (x.mean().item(), x.var().item())
    for t in (sigmas[250].item(), sigmas[350].item(), 0.0):
        mean, var = seen[t]
        assert mean == pytest.approx(flow.mean(t), abs=0.03 * flow.var(t) ** 0.5 + 0.01)
        assert var == pytest.approx(flow.var(t), rel=0.05)


@quick
@given(st.integers(1, 50), st.sampled_from([0.5, 1.0, 3.0]))
def test_schedule(num_steps, shift):
    sigmas = flow_sigmas(num_steps, shift)
    assert sigmas.shape == (num_steps + 1,)
    assert (sigmas[0], sigmas[-1]) == (1, 0)
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert stochastic_steps(sigmas, 0.7).tolist() == [True] * (num_steps - 1) + [False]
    assert not stochastic_steps(sigmas, 0.0).any()


@pytest.mark.parametrize(("num_steps", "shift"), [(0, 1.0), (3, 0.0)])
def test_impossible_schedules_are_refused(num_steps, shift):
    with pytest.raises(ValueError, match="want num_steps"):
        flow_sigmas(num_steps, shift)
