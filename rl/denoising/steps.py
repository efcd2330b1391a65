"""Noise schedules, predictions of denoising models, and the log-prob of a step. Float32 throughout; knows no model.

Letters: B rows, K steps, C h w a latent. A latent at some noise level is ``x = signal x_0 + noise e`` with ``e``
standard normal. Two families:

- A *variance-preserving* model has ``signal = sqrt(alpha_bar)``, ``noise = sqrt(1 - alpha_bar)``.
- A *flow* goes from the source ``x_1 = y + s e`` at sigma 1 to the picture at sigma 0 in a straight line,
  ``x = (1 - sigma) x_0 + sigma x_1``. So ``x - sigma y`` has ``signal = 1 - sigma``, ``noise = sigma s``. Flow-GRPO has
  y = 0, s = 1; a restorer starts at the degraded photo y plus a little noise s.

Divided by ``sqrt(signal^2 + noise^2)``, any latent is a variance-preserving one with
``alpha_bar = signal^2 / (signal^2 + noise^2)``: the conversions below hold for both families.

A model predicts one of four things; all say the same, as ``x`` is known:
``x_0``; the noise ``e``; ``v = signal e - noise x_0`` (Salimans & Ho 2022); a flow's velocity ``x_1 - x_0``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]
Scalar = Tensor | float
"""A number, or a tensor ``[B]`` with one for each row."""


# --------------------------------------------------------------------------------- schedules


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


def preserving_level(alpha_bar: Scalar, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return signal and noise of a variance-preserving model, ``[B, 1, 1, 1]`` each.

    Args:
        alpha_bar: Share of the variance that is signal, 0 (pure noise) to 1 (clean).
        like: ``[B, C, h, w]`` (any shape with rows first).
    """
    share = per_row(alpha_bar, like)
    return share.sqrt(), (1.0 - share).sqrt()


# --------------------------------------------------------------------------------- predictions


def velocity_from_x0(x: Tensor, x0: Tensor, sigma: Scalar) -> Tensor:
    """Turn a predicted clean picture into a flow's velocity ``(x - x0) / sigma``, sigma > 0; shape of ``x``."""
    return (x.float() - x0.float()) / per_row(sigma, x)


def x0_from_velocity(x: Tensor, velocity: Tensor, sigma: Scalar) -> Tensor:
    """Turn a flow's velocity into the predicted clean picture; shape of ``x``."""
    return x.float() - per_row(sigma, x) * velocity.float()


def noise_from_x0(x: Tensor, x0: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Turn a predicted clean picture into the noise it implies, ``noise`` > 0; a flow's ``x`` less ``sigma y``."""
    return (x.float() - signal * x0.float()) / noise


def x0_from_noise(x: Tensor, predicted: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Turn predicted noise into the clean picture.

    Needs ``signal`` > 0: at pure noise an epsilon model knows nothing of the picture, so schedules that
    start there want another prediction.
    """
    return (x.float() - noise * predicted.float()) / signal


def v_from_x0(x: Tensor, x0: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Turn a predicted clean picture into ``v = signal e - noise x_0``, ``noise`` > 0."""
    return signal * noise_from_x0(x, x0, signal, noise) - noise * x0.float()


def x0_from_v(x: Tensor, v: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Turn ``v`` into the predicted clean picture, at any noise level.

    Source:
        Salimans & Ho 2022 (progressive distillation), appendix D, where ``signal^2 + noise^2`` is 1.
    """
    return (signal * x.float() - noise * v.float()) / (signal**2 + noise**2)


# --------------------------------------------------------------------------------- log-prob


def gaussian_logprob(x_next: Tensor, mean: Tensor, std: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Log-prob of a step: the mean over the latent's elements, whose size does not depend on theirs, or the sum.

    Args:
        x_next: What was sampled, ``[B, C, h, w]``.
        mean: Same shape. Gradient flows.
        std: ``[B, 1, 1, 1]``; rows with 0 are deterministic and get log-prob 0.
        reduction: ``sum`` is the log-prob of the whole latent.

    Returns:
        ``[B]``, nats per element or nats, float32.

    Source:
        Liu et al. 2025 (Flow-GRPO), released code, for the mean in place of the sum.
    """
    is_random = std > 0
    std = torch.where(is_random, std.float(), 1.0)
    logprob = -0.5 * ((x_next.float() - mean) / std) ** 2 - torch.log(std) - 0.5 * math.log(2 * math.pi)
    elements = torch.where(is_random, logprob, 0.0).flatten(1)
    return elements.mean(dim=1) if reduction == "mean" else elements.sum(dim=1)


def per_row(value: Scalar, like: Tensor) -> Tensor:
    """Shape a number or ``[B]`` so that it broadcasts against ``like``: ``[B, 1, 1, 1]``, float32."""
    rows = torch.as_tensor(value, dtype=torch.float32, device=like.device).reshape(-1)
    return rows.expand(like.shape[0]).reshape(-1, *[1] * (like.dim() - 1))
