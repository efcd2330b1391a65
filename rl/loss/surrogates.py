"""The importance ratio of an action, and what is made of it: one small function a method.

Letters: B rows, T actions (padded), n elements of a latent. What the functions take has been through
``rl.loss.actions.masked``: 0 where nothing is trained. What they return is to be *maximised*, action by action;
aggregation and sign are the caller's. Methods with a ratio of the whole row keep advantages by action (they may
differ by block): the row's ratio is the value, and the gradient goes through each action's own log-prob. With
one advantage a row this is the papers' sequence form, in value and gradient, as the tests prove.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.methods import CISPO, GMPO, GSPO, PPO, DualClip, Guard, OnPolicy, Surrogate
from rl.loss.actions import MAX_LOG_RATIO, ActionScores, masked, row_mean


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
    """
    logprobs, advantages = masked(scores.logprobs, mask), masked(advantages, mask)
    log_ratio = logprobs - masked(old.logprobs.detach(), mask)
    match method:
        case PPO():
            return clipped(_exp(log_ratio), advantages, method.clip_low, method.clip_high)
        case DualClip():
            return dual_clipped(_exp(log_ratio), advantages, method)
        case GSPO():
            ratio = sequence_ratio(log_ratio, mask)
            return clipped(ratio, advantages, method.clip_low, method.clip_high)
        case CISPO():
            return cispo(log_ratio, logprobs, advantages, method)
        case GMPO():
            return gmpo(log_ratio, advantages, mask, method)
        case Guard():
            ratio = _exp(normalised_log_ratio(log_ratio, scores, old, mask))
            return clipped(ratio, advantages, method.clip_low, method.clip_high)
        case OnPolicy():
            return on_policy(log_ratio, advantages)


def clipped(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> SurrogateTerms:
    """Return ``min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A)``.

    Source:
        Schulman et al. 2017 (PPO), eq. 7; two bounds from Yu et al. 2025 (DAPO), eq. 8.
    """
    held = ratio.clamp(1 - clip_low, 1 + clip_high)
    return SurrogateTerms(
        value=torch.minimum(ratio * advantages, held * advantages),
        is_clipped_low=(ratio.detach() < 1 - clip_low) & (advantages < 0),
        is_clipped_high=(ratio.detach() > 1 + clip_high) & (advantages > 0),
    )


def dual_clipped(ratio: Tensor, advantages: Tensor, method: DualClip) -> SurrogateTerms:
    """Hold PPO's surrogate above ``bound * A`` where A is negative: wild ratios lose their gradient.

    Source:
        Ye et al. 2020, "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning" (dual-clip PPO).
    """
    terms = clipped(ratio, advantages, method.clip_low, method.clip_high)
    is_negative = advantages < 0
    floor = torch.maximum(terms.value, method.bound * advantages)
    return SurrogateTerms(
        value=torch.where(is_negative, floor, terms.value),
        is_clipped_low=terms.is_clipped_low,
        is_clipped_high=terms.is_clipped_high | (is_negative & (ratio.detach() > method.bound)),
    )


def sequence_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Return the geometric mean of the row's ratios for each action, gradient through the action's own log-prob.

    Args:
        log_ratio: ``[B, T]``, nats, 0 where not ``mask``.
        mask: ``[B, T]`` bool.

    Returns:
        ``[B, T]``, one number a row.

    Source:
        Zheng et al. 2025 (GSPO), eq. 7 for the ratio, eqs. 13 and 14 for the form with advantages by action.
    """
    return _exp(row_mean(log_ratio.detach(), mask) + _gradient_of(log_ratio))


def cispo(log_ratio: Tensor, logprobs: Tensor, advantages: Tensor, method: CISPO) -> SurrogateTerms:
    """Return ``clip(ratio) A log pi`` with the clipped ratio a constant: every action keeps its gradient.

    Source:
        MiniMax 2025 (MiniMax-M1), eqs. 4 and 5.
    """
    ratio = _exp(log_ratio.detach())
    low, high = 1 - method.clip_low, 1 + method.clip_high
    return SurrogateTerms(
        value=ratio.clamp(low, high) * advantages * logprobs,
        is_clipped_low=ratio < low,
        is_clipped_high=ratio > high,
    )


def gmpo(log_ratio: Tensor, advantages: Tensor, mask: Tensor, method: GMPO) -> SurrogateTerms:
    """Return the geometric mean of the row's clipped ratios times the action's advantage.

    A ratio is clipped in log space and only where it has gone the way its advantage pushes.

    Differs from the paper:
        The gradient of an action has its own advantage as a factor, not the row's mean advantage.

    Source:
        Zhao et al. 2025 (GMPO), the clipped objective and its log-space pseudo-code; bounds of 0.4 nats.
    """
    sign = advantages.sign()
    bounded = log_ratio.clamp(-method.clip_low, method.clip_high)
    held = sign * torch.minimum(sign * log_ratio, sign * bounded)
    ratio = _exp(row_mean(held.detach(), mask) + _gradient_of(held))
    seen = log_ratio.detach()
    return SurrogateTerms(
        value=ratio * advantages,
        is_clipped_low=(seen < -method.clip_low) & (sign < 0),
        is_clipped_high=(seen > method.clip_high) & (sign > 0),
    )


def on_policy(log_ratio: Tensor, advantages: Tensor) -> SurrogateTerms:
    """Return A with the gradient ``A grad log pi``: the ratio is 1 whoever sampled, and nothing is clipped.

    Source:
        Williams 1992 (REINFORCE).
    """
    nothing = torch.zeros_like(advantages, dtype=torch.bool)
    value = advantages * torch.exp(_gradient_of(log_ratio))
    return SurrogateTerms(value=value, is_clipped_low=nothing, is_clipped_high=nothing)


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


def _gradient_of(values: Tensor) -> Tensor:
    """Return zeros that have the gradient of ``values``."""
    return values - values.detach()


def _exp(log_ratio: Tensor) -> Tensor:
    """Return a ratio that stays finite, as does its gradient."""
    return torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
