"""Surrogates: what is made of an action's importance ratio, one small function a method, all of one signature.

Letters: B rows, T actions (padded), n elements of a latent. What the functions take has been through
``rl.loss.actions.masked``: 0 where nothing is trained. What they return is to be *maximised*, action by action;
aggregation and sign are the caller's. Methods with a ratio of the whole row keep advantages by action (they may
differ by block): the row's ratio is the value, and the gradient goes through each action's own log-prob. With
one advantage a row this is the papers' sequence form, in value and gradient, as the tests prove.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from configs.methods import Own, Surrogate
from rl.errors import ConfigError
from rl.loss.actions import MAX_LOG_RATIO, ActionScores, masked, row_mean
from rl.targets import check_function, load_target


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateInputs:
    """What a surrogate is made from; tensors are 0 where not ``mask``."""

    log_ratio: Tensor
    """``[B, T]`` nats: log-prob now less the old one. Gradient flows."""
    logprobs: Tensor
    """``[B, T]`` nats, of the policy now. Gradient flows."""
    advantages: Tensor
    """``[B, T]``."""
    mask: Tensor
    """``[B, T]`` bool: True where an action is trained."""
    scores: ActionScores
    """Of the policy now, as they came: behind the mask anything. With step means where the method asks for them."""
    old: ActionScores
    """What the ratio is taken against, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateTerms:
    """What is made of each action, ``[B, T]``."""

    value: Tensor
    """To be maximised; gradient flows. 0 where masked."""
    is_clipped_low: Tensor
    """bool: the lower bound cut the gradient (of ``cispo``: held the weight)."""
    is_clipped_high: Tensor
    """bool: the upper bound did."""


def surrogate_terms(
    method: Surrogate, scores: ActionScores, old: ActionScores, advantages: Tensor, mask: Tensor
) -> SurrogateTerms:
    """Apply a method to a micro-batch.

    Args:
        method: Which one, with its constants.
        scores: Of the policy now. Gradient flows.
        old: What the ratio is taken against.
        advantages: ``[B, T]``.
        mask: True where an action is trained, ``[B, T]``.

    Raises:
        ValueError: If shapes differ, or ``guard`` lacks step means.
        ConfigError: If a surrogate of the user's own cannot be found, or returns something else than one number
            an action.
    """
    logprobs = masked(scores.logprobs, mask)
    inputs = SurrogateInputs(
        log_ratio=logprobs - masked(old.logprobs.detach(), mask),
        logprobs=logprobs,
        advantages=masked(advantages, mask),
        mask=mask,
        scores=scores,
        old=old,
    )
    if isinstance(method, Own):
        return _of_the_user(method, find_surrogate(method)(inputs, **method.options), inputs)
    constants = {each.name: getattr(method, each.name) for each in fields(method) if each.name != "kind"}
    return SURROGATES[method.kind](inputs, **constants)


def find_surrogate(method: Surrogate, *, key: str = "surrogate") -> Callable[..., Any]:
    """Return a method's function, ``function(inputs, **constants)``.

    Args:
        method: A name's, or the user's own: its function returns ``SurrogateTerms``, or their ``value`` alone.
        key: Full key in the configuration, for the message.

    Raises:
        ConfigError: If there is no such function, or it cannot be called so.
    """
    if not isinstance(method, Own):
        return SURROGATES[method.kind]
    function: Callable[..., Any] = load_target(method.target, key=key)
    check_function(function, ["inputs"], method.options, key=key)
    return function


def _of_the_user(method: Own, result: Any, inputs: SurrogateInputs) -> SurrogateTerms:
    """Check what a user's own surrogate returned; a bare tensor is the value, and nothing was clipped."""
    if isinstance(result, Tensor):
        nothing = torch.zeros_like(inputs.mask)
        result = SurrogateTerms(value=result, is_clipped_low=nothing, is_clipped_high=nothing)
    if not isinstance(result, SurrogateTerms) or result.value.shape != inputs.mask.shape:
        shape = list(result.value.shape) if isinstance(result, SurrogateTerms) else type(result).__name__
        raise ConfigError(
            f"surrogate: {method.target} returned {shape}; want SurrogateTerms, or a tensor, of shape "
            f"{list(inputs.mask.shape)}"
        )
    return SurrogateTerms(
        value=masked(result.value, inputs.mask),
        is_clipped_low=result.is_clipped_low & inputs.mask,
        is_clipped_high=result.is_clipped_high & inputs.mask,
    )


# --------------------------------------------------------------------------------- methods


def ppo(inputs: SurrogateInputs, *, clip_low: float, clip_high: float) -> SurrogateTerms:
    """Clip each action's own ratio: ``min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A)``.

    Source:
        Schulman et al. 2017 (PPO), eq. 7; two bounds from Yu et al. 2025 (DAPO), eq. 8.
    """
    return _clipped(_exp(inputs.log_ratio), inputs.advantages, clip_low, clip_high)


def dual_clip(inputs: SurrogateInputs, *, clip_low: float, clip_high: float, bound: float) -> SurrogateTerms:
    """Hold PPO's surrogate above ``bound * A`` where A is negative: wild ratios lose their gradient.

    Source:
        Ye et al. 2020, "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning" (dual-clip PPO).
    """
    ratio, advantages = _exp(inputs.log_ratio), inputs.advantages
    terms = _clipped(ratio, advantages, clip_low, clip_high)
    is_negative = advantages < 0
    floor = torch.maximum(terms.value, bound * advantages)
    return SurrogateTerms(
        value=torch.where(is_negative, floor, terms.value),
        is_clipped_low=terms.is_clipped_low,
        is_clipped_high=terms.is_clipped_high | (is_negative & (ratio.detach() > bound)),
    )


def gspo(inputs: SurrogateInputs, *, clip_low: float, clip_high: float) -> SurrogateTerms:
    """Clip one ratio a row, the geometric mean of its actions', gradient through each action's own log-prob.

    Source:
        Zheng et al. 2025 (GSPO), eq. 7 for the ratio, eqs. 13 and 14 for the form with advantages by action.
    """
    log_ratio = inputs.log_ratio
    ratio = _exp(row_mean(log_ratio.detach(), inputs.mask) + _gradient_of(log_ratio))
    return _clipped(ratio, inputs.advantages, clip_low, clip_high)


def cispo(inputs: SurrogateInputs, *, clip_low: float, clip_high: float) -> SurrogateTerms:
    """Return ``clip(ratio) A log pi`` with the clipped ratio a constant: every action keeps its gradient.

    Source:
        MiniMax 2025 (MiniMax-M1), eqs. 4 and 5.
    """
    ratio = _exp(inputs.log_ratio.detach())
    low, high = 1 - clip_low, 1 + clip_high
    return SurrogateTerms(
        value=ratio.clamp(low, high) * inputs.advantages * inputs.logprobs,
        is_clipped_low=ratio < low,
        is_clipped_high=ratio > high,
    )


def gmpo(inputs: SurrogateInputs, *, clip_low: float, clip_high: float) -> SurrogateTerms:
    """Return the geometric mean of the row's clipped ratios times the action's advantage.

    A ratio is clipped in log space and only where it has gone the way its advantage pushes.

    Differs from the paper:
        The gradient of an action has its own advantage as a factor, not the row's mean advantage.

    Source:
        Zhao et al. 2025 (GMPO), the clipped objective and its log-space pseudo-code; bounds of 0.4 nats.
    """
    sign, log_ratio = inputs.advantages.sign(), inputs.log_ratio
    bounded = log_ratio.clamp(-clip_low, clip_high)
    held = sign * torch.minimum(sign * log_ratio, sign * bounded)
    ratio = _exp(row_mean(held.detach(), inputs.mask) + _gradient_of(held))
    seen = log_ratio.detach()
    return SurrogateTerms(
        value=ratio * inputs.advantages,
        is_clipped_low=(seen < -clip_low) & (sign < 0),
        is_clipped_high=(seen > clip_high) & (sign > 0),
    )


def guard(inputs: SurrogateInputs, *, clip_low: float, clip_high: float) -> SurrogateTerms:
    """Clip normalised ratios of denoising steps.

    Source:
        Wang et al. 2025 (GRPO-Guard), eq. 8.
    """
    ratio = _exp(normalised_log_ratio(inputs.log_ratio, inputs.scores, inputs.old, inputs.mask))
    return _clipped(ratio, inputs.advantages, clip_low, clip_high)


def on_policy(inputs: SurrogateInputs) -> SurrogateTerms:
    """Return A with the gradient ``A grad log pi``: the ratio is 1 whoever sampled, and nothing is clipped.

    Source:
        Williams 1992 (REINFORCE).
    """
    nothing = torch.zeros_like(inputs.advantages, dtype=torch.bool)
    value = inputs.advantages * torch.exp(_gradient_of(inputs.log_ratio))
    return SurrogateTerms(value=value, is_clipped_low=nothing, is_clipped_high=nothing)


SURROGATES: Mapping[str, Callable[..., SurrogateTerms]] = {
    "ppo": ppo,
    "dual_clip": dual_clip,
    "gspo": gspo,
    "cispo": cispo,
    "gmpo": gmpo,
    "guard": guard,
    "on_policy": on_policy,
}
"""By the ``kind`` of its constants in ``configs.methods``."""

# --------------------------------------------------------------------------------- parts


def normalised_log_ratio(log_ratio: Tensor, scores: ActionScores, old: ActionScores, mask: Tensor) -> Tensor:
    """Take the bias and the scale of a step's noise out of its log-ratio.

    With ``x' = mean_old + std e`` the log-ratio is ``mean(e dmu) / std - mean(dmu^2) / (2 std^2)``: below 0 on
    average, and the smaller std the wilder. ``std * (log ratio + mean(dmu^2) / (2 std^2)) = mean(e dmu)`` is
    neither. Means go over the latent's elements, as in the log-probs.

    Args:
        log_ratio: ``[B, T]``, 0 where not ``mask``. Gradient flows.
        scores: With ``step_mean`` ``[B, T, n]`` (gradient flows) and ``step_std`` ``[B, T]``, above 0 where trained.
        old: With ``step_mean``.
        mask: ``[B, T]`` bool.

    Returns:
        ``[B, T]``; at equal policies its gradient is ``std`` times that of the log-prob.

    Raises:
        ValueError: If step means are missing.

    Source:
        Wang et al. 2025 (GRPO-Guard), eq. 8.
    """
    if scores.step_mean is None or scores.step_std is None or old.step_mean is None:
        raise ValueError(
            "surrogate guard needs step_mean and step_std of the policy and of the rollout worker"
        )
    std = torch.where(mask, masked(scores.step_std.detach(), mask), 1.0)
    gap = masked(scores.step_mean, mask) - masked(old.step_mean.detach(), mask)
    return torch.where(mask, std * (log_ratio + (gap**2).mean(dim=2) / (2 * std**2)), 0.0)


def guard_step_weights(sigmas: Tensor) -> Tensor:
    """Return the factors that give every step equal say: ``1 / (K dt)``, 1 everywhere on an even schedule.

    A step's mean moves by ``dt`` times the velocity, and so does its gradient; this divides it out.

    Args:
        sigmas: Schedules from 1 to 0, ``[B, K+1]``, strictly falling.

    Returns:
        ``[B, K]``, for ``PolicyBatch.action_weights``.

    Source:
        Wang et al. 2025 (GRPO-Guard), gradient reweighting.
    Differs from the paper:
        ``1 / dt`` is divided by K, so that the loss keeps its scale.
    """
    return 1.0 / ((sigmas.shape[1] - 1) * (sigmas[:, :-1] - sigmas[:, 1:]))


def _clipped(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> SurrogateTerms:
    held = ratio.clamp(1 - clip_low, 1 + clip_high)
    return SurrogateTerms(
        value=torch.minimum(ratio * advantages, held * advantages),
        is_clipped_low=(ratio.detach() < 1 - clip_low) & (advantages < 0),
        is_clipped_high=(ratio.detach() > 1 + clip_high) & (advantages > 0),
    )


def _gradient_of(values: Tensor) -> Tensor:
    """Return zeros that have the gradient of ``values``."""
    return values - values.detach()


def _exp(log_ratio: Tensor) -> Tensor:
    """Return a ratio that stays finite, as does its gradient."""
    return torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
