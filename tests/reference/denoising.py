"""Flow-GRPO's step as printed, for one number at a time, and a flow whose velocity is known exactly."""

import math

import torch
from torch import Tensor


def flow_grpo_step(x: float, v: float, sigma: float, sigma_next: float, noise: float) -> tuple[float, float]:
    dt = sigma_next - sigma
    s = noise * math.sqrt(sigma / (1 - (sigma_next if sigma == 1 else sigma)))
    mean = x * (1 + s**2 / (2 * sigma) * dt) + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, s * math.sqrt(-dt)


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

    def source(self, num: int, generator: torch.Generator) -> Tensor:
        return self.y + self.s * torch.randn(num, 1, generator=generator)
