"""KL between policy and reference, estimated action by action.

Letters: B rows, T actions (padded), n elements of a latent. With ``d = log pi - log pi_ref`` of a sampled action:

=========  ==========================  ====================================================================
estimator  value                       gradient, in expectation over actions that the policy itself sampled
=========  ==========================  ====================================================================
k1         ``d``                       0: as a loss it only adds noise
k2         ``d^2 / 2``                 that of KL(policy || reference): right on-policy
k3         ``exp(-d) - 1 + d``         that of KL(reference || policy): biased, equal to first order in d
step_mean  exact for normal steps      exact
=========  ==========================  ====================================================================

All but k2 are right in value; none is weighted by an importance ratio, so after the first update of a batch
they are those of slightly older actions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rl.loss.actions import MAX_LOG_RATIO, ActionScores, masked

KLEstimator = Literal["k1", "k2", "k3", "step_mean"]


def kl_terms(estimator: KLEstimator, scores: ActionScores, reference: ActionScores, mask: Tensor) -> Tensor:
    """Estimate KL(policy || reference) from each action.

    Args:
        estimator: Which one.
        scores: Of the policy, ``[B, T]``. Gradient flows.
        reference: Of the frozen reference, the same actions.
        mask: True where an action is trained, ``[B, T]``.

    Returns:
        ``[B, T]``, nats (of denoising steps: nats per latent element); 0 where not ``mask``.

    Raises:
        ValueError: If shapes differ, or ``step_mean`` is asked of scores without step means.

    Source:
        Schulman 2020, "Approximating KL divergence"; Shao et al. 2024 (GRPO), eq. 4, is k3.
    """
    if estimator == "step_mean":
        return step_mean_kl(scores, reference, mask)
    log_ratio = masked(scores.logprobs, mask) - masked(reference.logprobs.detach(), mask)
    if estimator == "k1":
        return log_ratio
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k2":
        return 0.5 * log_ratio**2
    return torch.exp(-log_ratio) - 1 + log_ratio


def step_mean_kl(scores: ActionScores, reference: ActionScores, mask: Tensor) -> Tensor:
    """Return the KL between normal steps of equal deviation: mean of ``(mean - mean_ref)^2 / (2 std^2)``.

    Args:
        scores: With ``step_mean`` ``[B, T, n]`` and ``step_std`` ``[B, T]``. Gradient flows through the mean.
        reference: With ``step_mean``.
        mask: True where a step is trained, ``[B, T]``; there ``step_std`` is above 0.

    Returns:
        ``[B, T]``, nats per latent element, as the log-probs are; 0 where not ``mask``.

    Raises:
        ValueError: If scores come without step means.

    Source:
        Liu et al. 2025 (Flow-GRPO), the closed form of the KL of a step; the mean over elements in place of
        the sum goes with log-probs that are means.
    """
    if scores.step_mean is None or scores.step_std is None or reference.step_mean is None:
        raise ValueError("the KL on step means needs scores with step_mean and step_std")
    std = torch.where(mask, masked(scores.step_std.detach(), mask), 1.0)
    gap = masked(scores.step_mean, mask) - masked(reference.step_mean.detach(), mask)
    return (gap**2).mean(dim=2) / (2 * std**2)
