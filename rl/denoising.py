"""Denoising steps as actions: the stochastic step of a flow model and its log-prob.

Letters: B rows, K steps, C h w a latent. Everything is computed in float32. Torch only; knows no model.

The flow runs from the source ``x_1 = y + s e`` (e standard normal) at sigma 1 to the picture ``x_0`` at
sigma 0: ``x_t = (1 - t) x_0 + t x_1``, and the model's velocity is ``v = E[x_1 - x_0 | x_t]``. Flow-GRPO has
y = 0, s = 1; a restorer starts at the degraded photo y plus a little noise s.

Why the stochastic step is right for any known y and s > 0: given x_0, ``x_t`` is normal with mean
``(1 - t) x_0 + t y`` and deviation ``t s``, so the marginal's score is ``-E[e | x_t] / (t s)`` with
``E[e | x_t] = (x + (1 - t) v - y) / s``. For any g(t), ``dx = [v - g^2/2 score] dt + g dw`` run from t = 1
down has the marginals of ``dx = v dt``. With ``g = s a sqrt(t / (1 - t))``, noise in proportion to the
source's, s cancels from the drift: ``v + a^2 / (2 (1 - t)) (x + (1 - t) v - y)``. This holds as long as v is
the velocity *given y*, which the model learns because it sees y.

Source:
    Liu et al. 2025 (Flow-GRPO), eqs. 8-9 and its released sampler, of which this is the case y = 0, s = 1.
Differs from the paper:
    The step to sigma 0 is deterministic, so that pictures end clean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Scalar = Tensor | float
"""A number, or a tensor ``[B]`` with one for each row."""


def flow_sigmas(num_steps: int, shift: float = 1.0) -> Tensor:
    """Return the noise schedule from 1 to 0, ``[K+1]``.

    Args:
        num_steps: K.
        shift: Above 1 spends more steps at high noise: ``shift s / (1 + (shift - 1) s)``.

    Raises:
        ValueError: If there is no step or ``shift`` is not positive.
    """
    if num_steps < 1 or shift <= 0:
        raise ValueError(f"want num_steps >= 1 and shift > 0, got {num_steps} and {shift}")
    sigmas = torch.linspace(1.0, 0.0, num_steps + 1)
    return shift * sigmas / (1.0 + (shift - 1.0) * sigmas)


def stochastic_steps(sigmas: Tensor, noise_level: float) -> Tensor:
    """Say which steps of a schedule ``[K+1]`` are random, hence actions: bool ``[K]``, all but the last."""
    return (sigmas[1:] > 0) & (noise_level > 0)


def velocity_from_x0(x: Tensor, x0: Tensor, sigma: Scalar) -> Tensor:
    """Turn a predicted clean picture into a velocity ``(x - x0) / sigma``, sigma > 0; shape of ``x``."""
    return (x.float() - x0.float()) / _per_row(sigma, x)


def sde_mean_std(
    x: Tensor,
    velocity: Tensor,
    sigma: Scalar,
    sigma_next: Scalar,
    noise_level: Scalar,
    source_mean: Tensor | float = 0.0,
    source_std: Scalar = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the next latent.

    Where ``noise_level`` or ``sigma_next`` is 0 it is the Euler step of the flow, with deviation 0. At
    ``sigma = 1`` the noise would be infinite; ``1 - sigma`` is replaced there by ``1 - sigma_next``, as in
    Flow-GRPO.

    Args:
        x: Latent at ``sigma``, ``[B, C, h, w]`` (any shape with rows first).
        velocity: ``E[x_1 - x_0]`` there, same shape. Gradient flows.
        sigma: In (0, 1].
        sigma_next: In [0, sigma).
        noise_level: a; 0 is deterministic.
        source_mean: y, the shape of ``x``.
        source_std: s, the deviation of the source noise.

    Returns:
        Mean, shape of ``x``, and deviation ``[B, 1, 1, 1]``, float32.
    """
    x, velocity = x.float(), velocity.float()
    sigma, sigma_next = _per_row(sigma, x), _per_row(sigma_next, x)
    dt = sigma_next - sigma
    noise = torch.where(sigma_next > 0, _per_row(noise_level, x), 0.0)
    diffusion = noise * torch.sqrt(sigma / (1.0 - torch.where(sigma >= 1.0, sigma_next, sigma)))
    source = x + (1.0 - sigma) * velocity
    drift = velocity + diffusion**2 / (2.0 * sigma) * (source - source_mean)
    return x + drift * dt, _per_row(source_std, x) * diffusion * torch.sqrt(-dt)


def gaussian_logprob(x_next: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-prob of a step, averaged over the latent's elements so that its size does not depend on theirs.

    Args:
        x_next: What was sampled, ``[B, C, h, w]``.
        mean: Same shape. Gradient flows.
        std: ``[B, 1, 1, 1]``; rows with 0 are deterministic and get log-prob 0.

    Returns:
        ``[B]``, nats per element, float32.
    """
    is_random = std > 0
    std = torch.where(is_random, std.float(), 1.0)
    logprob = -0.5 * ((x_next.float() - mean) / std) ** 2 - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return torch.where(is_random, logprob, 0.0).flatten(1).mean(dim=1)


def _per_row(value: Scalar, like: Tensor) -> Tensor:
    """Shape a number or ``[B]`` so that it broadcasts against ``like``: ``[B, 1, 1, 1]``."""
    rows = torch.as_tensor(value, dtype=torch.float32, device=like.device).reshape(-1)
    return rows.expand(like.shape[0]).reshape(-1, *[1] * (like.dim() - 1))
