"""Samplers as printed, for one number at a time and a standard normal source, and a flow that is known exactly."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

MeanStd = tuple[float, float]


def flow_grpo_step(x: float, v: float, sigma: float, sigma_next: float, noise: float) -> MeanStd:
    dt = sigma_next - sigma
    s = noise * math.sqrt(sigma / (1 - (sigma_next if sigma == 1 else sigma)))
    mean = x * (1 + s**2 / (2 * sigma) * dt) + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, s * math.sqrt(-dt)


def dance_step(x: float, v: float, sigma: float, sigma_next: float, eta: float) -> MeanStd:
    clean = x - sigma * v
    score = -(x - (1 - sigma) * clean) / sigma**2
    step = sigma_next - sigma
    return x + v * step - 0.5 * eta**2 * score * step, eta * math.sqrt(-step)


def cps_step(x: float, v: float, sigma: float, sigma_next: float, eta: float) -> MeanStd:
    clean, noise = x - sigma * v, x + (1 - sigma) * v
    std = sigma_next * math.sin(eta * math.pi / 2)
    return clean * (1 - sigma_next) + noise * math.sqrt(sigma_next**2 - std**2), std


def ddim_epsilon_step(x: float, eps: float, ab: float, ab_next: float, eta: float) -> MeanStd:
    std = eta * math.sqrt((1 - ab_next) / (1 - ab)) * math.sqrt(1 - ab / ab_next)
    clean = (x - math.sqrt(1 - ab) * eps) / math.sqrt(ab)
    return math.sqrt(ab_next) * clean + math.sqrt(1 - ab_next - std**2) * eps, std


def ddim_step(x: float, v: float, sigma: float, sigma_next: float, eta: float) -> MeanStd:
    """On a flow, by way of the variance-preserving latent that it is up to a scale."""
    radius, radius_next = math.hypot(1 - sigma, sigma), math.hypot(1 - sigma_next, sigma_next)
    ab, ab_next = ((1 - sigma) / radius) ** 2, ((1 - sigma_next) / radius_next) ** 2
    noise = x + (1 - sigma) * v
    if sigma == 1:  # an epsilon model cannot start at pure noise; its picture is known from the velocity
        std = eta * math.sqrt(1 - ab_next)
        mean = math.sqrt(ab_next) * (x - v) + math.sqrt(max(0.0, 1 - ab_next - std**2)) * noise
    else:
        mean, std = ddim_epsilon_step(x / radius, noise, ab, ab_next, eta)
    return radius_next * mean, radius_next * std


STEPS: dict[str, Callable[[float, float, float, float, float], MeanStd]] = {
    "flow_grpo": flow_grpo_step,
    "dance": dance_step,
    "cps": cps_step,
    "ddim": ddim_step,
}


def step_from(
    kind: str, x: float, v: float, sigmas: tuple[float, float], noise: float, source: tuple[float, float]
) -> MeanStd:
    """Take the printed step of a flow from N(y, s^2), in units of that source."""
    y, s = source
    mean, std = STEPS[kind]((x - y) / s, v / s, *sigmas, noise)
    return y + s * mean, s * std


def normal_logprob(x_next: np.ndarray, mean: np.ndarray, std: float) -> float:
    """Mean over elements, in double precision."""
    deviation = (np.float64(x_next) - mean) / std
    return float(np.mean(-0.5 * deviation**2 - np.log(std) - 0.5 * np.log(2 * np.pi)))


class GaussianFlow:
    """Pictures N(m, c^2) and a source N(y, s^2): every marginal and the velocity are known."""

    def __init__(self, *, m: float, c: float, y: float, s: float) -> None:
        self.m, self.c, self.y, self.s = m, c, y, s

    def mean(self, t: float) -> float:
        return (1 - t) * self.m + t * self.y

    def var(self, t: float) -> float:
        return ((1 - t) * self.c) ** 2 + (t * self.s) ** 2

    def velocity(self, x: Tensor, t: float) -> Tensor:
        slope = (t * self.s**2 - (1 - t) * self.c**2) / self.var(t)
        return (self.y - self.m) + slope * (x - self.mean(t))

    def clean(self, x: Tensor, t: float) -> Tensor:
        """``E[x_0 | x]``."""
        return x - t * self.velocity(x, t)

    def moments(
        self, sigmas: list[float], step: Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]
    ) -> list[MeanStd]:
        """Carry mean and variance through steps that are affine in x, from the source; one pair a level."""
        mean, var = self.y, self.s**2
        seen = [(mean, var)]
        for now, after in pairwise(sigmas):
            probes = torch.tensor([[mean], [mean + 1.0]])
            at, std = step(probes, self.clean(probes, now), now, after)
            slope = (at[1] - at[0]).item()
            mean, var = at[0].item(), slope**2 * var + std[0].item() ** 2
            seen.append((mean, var))
        return seen
