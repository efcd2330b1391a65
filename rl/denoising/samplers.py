"""Samplers: the random denoising step, one deviation each and two forms of the mean. Float32; knows no model.

Letters: B rows, K steps, C h w a latent, t and t' the noise levels (sigma) before and after, a the noise level
of the configuration. Flows as in ``rl.denoising.steps``: ``x = (1 - t) x_0 + t (y + s e)``, and the model says
``x_0^ = E[x_0 | x]``, hence ``e^ = (x - (1 - t) x_0^ - t y) / (t s)`` and the velocity ``v = (x - x_0^) / t``.
The model sees y, so all expectations are those given y.

**Any source.** ``u = (x - y) / s`` is a flow from a standard normal source, with ``u_0 = (x_0 - y) / s`` and
velocity ``v / s``. So each published step holds in u; back in x the mean is ``y + s mean_u`` and the deviation
``s std_u``. The functions called ``*_std`` below return ``std_u``, which depends on t, t' and a only.

**SDE** (``flow_grpo``, ``dance``). Given x_0, x is normal around ``(1 - t) x_0 + t y`` with deviation ``t s``, so
the score is ``-e^ / (t s)``. For any g(t), ``dx = [v - g^2/2 score] dt + g dw`` run from t = 1 down has the
marginals of ``dx = v dt``. Euler's step of length ``h = t - t'`` has ``std = g sqrt(h)`` and

    mean = x - v h - (std^2 / 2) e^ / (t s) .

With ``std = s std_u`` and ``s e^ = x + (1 - t) v - y`` no s is left in it. The marginals are right in the limit of
small steps only: one step adds ``std^2`` to the variance, whatever the next level has room for. Where ``std_u`` is
large against t' (DanceGRPO's constant g near the end), latents are noisier than the model expects.

**Coefficient-preserving** (``cps``, ``ddim``). Picture and noise keep the coefficients that belong to t':

    x' = (1 - t') x_0^ + t' y + sqrt((t' s)^2 - std^2) e^ + std z,    z standard normal.

For one known picture (``x_0^`` = x_0, hence ``e^`` = e) that is ``(1 - t') x_0 + t' y + t' s e'`` with e' standard
normal: the marginals are exact for steps of any length. Over a distribution of pictures ``x_0^`` is a mean and
lacks their spread, so they are right in the limit of small steps, provided that ``std`` vanishes with the
square root of the step. ``ddim``'s does; ``cps`` with a fixed a takes the same share of the noise anew in every
step however short, and the pictures' variance stays too small however many steps there are (for normal pictures
by the factor ``(1 + cos(a pi / 2)) / 2`` in the limit). It is right in the limit where a goes with ``sqrt(h)``.

``ddim`` is DDPM's and DDIM's step. By ``rl.denoising.steps`` a flow is a variance-preserving model up to a known scale
``r = sqrt(signal^2 + noise^2)``. With r' that of the next level, r' times DDIM's deviation
``eta sqrt((1 - ab') / (1 - ab)) sqrt(1 - ab / ab')`` is ``eta noise' sqrt(1 - (signal noise' / (signal' noise))^2)``,
the same for a flow and for an epsilon- or v-model (``ddim_step``). On a flow, s cancels from the fraction.

**Ends.** With a = 0 every step is Euler's step of ``dx = v dt``, which for the second form is DDIM with eta 0. The
step to sigma 0 is deterministic and lands on ``x_0^``, so that pictures end clean. At t = 1, where Flow-GRPO's g is
infinite, ``1 - t`` is taken at t'; the other samplers are finite there.

Source:
    flow_grpo: Liu et al. 2025 (Flow-GRPO), eqs. 8-9, and its released sampler. dance: Xue et al. 2025 (DanceGRPO) and
    its released sampler. cps: Wang & Yu 2025 (Coefficients-Preserving Sampling). ddim: Song et al. 2021 (DDIM),
    eqs. 12 and 16, as in Black et al. 2024 (DDPO).
Differs from the paper:
    The last step is deterministic. ``cps``: the released code scores a step by ``-(x' - mean)^2``, without the
    deviation and the constants; here it is a normal log-prob like the others, so ratios are true ratios.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rl.denoising.steps import Scalar, noise_from_x0, per_row, preserving_level, velocity_from_x0
from rl.errors import ConfigError
from rl.targets import check_function, load_target

# --------------------------------------------------------------------------------- deviations


def flow_grpo_std(sigma: Tensor, sigma_next: Tensor, noise_level: Tensor) -> Tensor:
    """Flow-GRPO: ``g = a sqrt(t / (1 - t))``. Shapes broadcast; in units of the source's deviation."""
    rest = 1.0 - torch.where(sigma >= 1.0, sigma_next, sigma)
    return noise_level * torch.sqrt(sigma / rest * (sigma - sigma_next))


def dance_std(sigma: Tensor, sigma_next: Tensor, noise_level: Tensor) -> Tensor:
    """DanceGRPO: constant ``g = a``. Shapes broadcast; in units of the source's deviation."""
    return noise_level * torch.sqrt(sigma - sigma_next)


def cps_std(sigma: Tensor, sigma_next: Tensor, noise_level: Tensor) -> Tensor:
    """CPS: ``t' sin(a pi / 2)``, a in 0..1. Shapes broadcast; in units of the source's deviation."""
    del sigma
    return sigma_next * torch.sin(noise_level * (math.pi / 2))


def ddim_std(sigma: Tensor, sigma_next: Tensor, noise_level: Tensor) -> Tensor:
    """DDIM on a flow, a = eta in 0..1. Shapes broadcast; in units of the source's deviation."""
    return _ddim_std((1.0 - sigma, sigma), (1.0 - sigma_next, sigma_next), noise_level)


def _ddim_std(now: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], eta: Tensor) -> Tensor:
    """DDIM's deviation between two levels (signal, noise); after pure noise it is ``eta noise'``."""
    (signal, noise), (signal_next, noise_next) = now, after
    kept = signal * noise_next / (signal_next * noise)
    return eta * noise_next * torch.sqrt((1.0 - kept**2).clamp(min=0.0))


# --------------------------------------------------------------------------------- means


def sde_mean(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor, unit_std: Tensor, y: Scalar) -> Tensor:
    """Euler's step of the SDE; see the module. ``unit_std`` in units of the source's deviation, ``[B, 1, 1, 1]``."""
    velocity = velocity_from_x0(x, x0, sigma.flatten())
    source = x + (1.0 - sigma) * velocity
    return x - velocity * (sigma - sigma_next) - unit_std**2 / (2.0 * sigma) * (source - y)


def preserving_mean(
    x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor, unit_std: Tensor, y: Scalar
) -> Tensor:
    """Keep the coefficients of the next level; see the module. ``unit_std`` as in ``sde_mean``."""
    noise = (x - (1.0 - sigma) * x0 - sigma * y) / sigma  # s e^
    rest = torch.sqrt((sigma_next**2 - unit_std**2).clamp(min=0.0))
    return (1.0 - sigma_next) * x0 + sigma_next * y + rest * noise


# --------------------------------------------------------------------------------- the step


@dataclass(frozen=True, slots=True)
class Sampler:
    """A random step of a flow: a normal with this deviation and mean. One's own is an instance of it."""

    std: Callable[[Tensor, Tensor, Tensor], Tensor]
    """``std(sigma, sigma_next, noise_level)`` in units of the source's deviation; shapes broadcast, 0 at level 0."""
    mean: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Scalar], Tensor]
    """``mean(x, x0, sigma, sigma_next, unit_std, y)``: ``x`` the latent, ``x0`` the predicted picture (gradient flows),
    levels and deviation ``[B, 1, 1, 1]``, y the source's mean: ``sde_mean``, ``preserving_mean``, or another."""


SAMPLERS: Mapping[str, Sampler] = {
    "flow_grpo": Sampler(flow_grpo_std, sde_mean),
    "dance": Sampler(dance_std, sde_mean),
    "cps": Sampler(cps_std, preserving_mean),
    "ddim": Sampler(ddim_std, preserving_mean),
}
"""By the name in the configuration."""


@functools.cache
def find_sampler(kind: str, key: str = "sampler") -> Sampler:
    """Return the sampler of a name in ``SAMPLERS``, or of ``package.module:SAMPLER``.

    Args:
        kind: Name, or import path of a ``Sampler``.
        key: Full key in the configuration, for the message.

    Raises:
        ConfigError: If there is none, it is no ``Sampler``, or its functions cannot be called as one's.
    """
    if kind in SAMPLERS:
        return SAMPLERS[kind]
    sampler = load_target(kind, key=key)
    if not isinstance(sampler, Sampler):
        raise ConfigError(
            f"{key}: {kind} is no rl.denoising.samplers.Sampler; write Sampler(std=..., mean=...)"
        )
    check_function(sampler.std, ["sigma", "sigma_next", "noise_level"], key=key)
    check_function(sampler.mean, ["x", "x0", "sigma", "sigma_next", "unit_std", "y"], key=key)
    return sampler


@dataclass(frozen=True, slots=True)
class Source:
    """Where a flow begins: ``x_1 = mean + std e``."""

    mean: Scalar = 0.0
    """y: a number, or the latent's shape."""
    std: Scalar = 1.0
    """s > 0."""


NORMAL = Source()
"""The source of a model that makes pictures from nothing."""


def unit_stds(kind: str, sigmas: Tensor, noise_level: Tensor) -> Tensor:
    """Return the deviation of every step of some schedules.

    Args:
        kind: As in ``find_sampler``.
        sigmas: ``[B, K+1]``.
        noise_level: ``[B]``.

    Returns:
        ``[B, K]`` in units of the source's deviation; 0 for steps to sigma 0.
    """
    now, after = sigmas[:, :-1], sigmas[:, 1:]
    return torch.where(after > 0, find_sampler(kind).std(now, after, noise_level[:, None]), 0.0)


def preserving_stds(shares: Tensor, eta: Tensor) -> Tensor:
    """Return the deviation of every DDIM step of variance-preserving schedules.

    Args:
        shares: Of the variance that is signal, ``[B, K+1]``, rising.
        eta: ``[B]``.

    Returns:
        ``[B, K]``; 0 for steps to a share of 1.
    """
    now, after = ((part.sqrt(), (1.0 - part).sqrt()) for part in (shares[:, :-1], shares[:, 1:]))
    return _ddim_std(now, after, eta[:, None])


def step_mean_std(
    kind: str,
    x: Tensor,
    x0: Tensor,
    sigma: Scalar,
    sigma_next: Scalar,
    noise_level: Scalar,
    source: Source = NORMAL,
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of a flow's next latent.

    Where ``noise_level`` or ``sigma_next`` is 0 it is the Euler step of the flow, with deviation 0.

    Args:
        kind: As in ``find_sampler``.
        x: Latent at ``sigma``, ``[B, C, h, w]`` (any shape with rows first).
        x0: Predicted clean picture, same shape. Gradient flows.
        sigma: In (0, 1].
        sigma_next: In [0, sigma).
        noise_level: Of the sampler; 0 is deterministic, and above 1 makes no sense for ``cps`` and ``ddim``.
        source: Of the flow.

    Returns:
        Mean, shape of ``x``, and deviation ``[B, 1, 1, 1]``, float32.

    Source:
        See the module.
    """
    sampler = find_sampler(kind)
    sigma, sigma_next = per_row(sigma, x), per_row(sigma_next, x)
    level = torch.where(sigma_next > 0, per_row(noise_level, x), 0.0)
    unit_std = sampler.std(sigma, sigma_next, level)
    mean = sampler.mean(x.float(), x0.float(), sigma, sigma_next, unit_std, source.mean)
    return mean, per_row(source.std, x) * unit_std


def ddim_step(
    x: Tensor, x0: Tensor, alpha_bar: Scalar, alpha_bar_next: Scalar, eta: Scalar
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the next latent of a variance-preserving model.

    For epsilon- and v-models, whose predictions ``rl.denoising.steps`` turns into ``x0``.

    Args:
        x: Latent at ``alpha_bar``, ``[B, C, h, w]``.
        x0: Predicted clean picture, same shape. Gradient flows.
        alpha_bar: In [0, 1).
        alpha_bar_next: In (alpha_bar, 1]; at 1 the step is deterministic and lands on ``x0``.
        eta: In 0..1; 0 is deterministic (DDIM), 1 DDPM's ancestral step.

    Returns:
        Mean, shape of ``x``, and deviation ``[B, 1, 1, 1]``, float32.

    Source:
        Song et al. 2021 (DDIM), eqs. 12 and 16; Black et al. 2024 (DDPO).
    """
    x, x0 = x.float(), x0.float()
    signal, noise = preserving_level(alpha_bar, x)
    signal_next, noise_next = preserving_level(alpha_bar_next, x)
    std = _ddim_std((signal, noise), (signal_next, noise_next), per_row(eta, x))
    rest = torch.sqrt((noise_next**2 - std**2).clamp(min=0.0))
    return signal_next * x0 + rest * noise_from_x0(x, x0, signal, noise), std
