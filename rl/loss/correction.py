"""Correction of the mismatch between the rollout worker's probabilities and the learner's own.

With a correction the surrogate's ratio is taken against the learner's log-probs before the batch's first
update (*proximal*), and what is left, proximal over behaviour, becomes a constant factor on each action.
Letters: B rows, T actions (padded).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.methods import Correction, NoCorrection, SequenceMask, TokenMask, TruncatedImportance
from rl.loss.actions import MAX_LOG_RATIO, masked, row_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionFactors:
    """Factors on the surrogate, and what was cut; all without gradient."""

    factors: Tensor
    """``[B, T]``; 0 where an action is left out, and where not masked."""
    is_truncated: Tensor
    """``[B, T]`` bool: the factor was held at the cap."""
    is_left_out: Tensor
    """``[B, T]`` bool: the mismatch was out of bounds."""


def correction_factors(
    method: Correction, proximal_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor
) -> CorrectionFactors:
    """Weigh actions by how much likelier the learner finds them than the rollout worker did.

    The step's divisor stays what it is: an action that is left out still counts as one.

    Args:
        method: What is done.
        proximal_logprobs: The learner's before the batch's first update, ``[B, T]``, nats.
        behaviour_logprobs: The rollout worker's, ``[B, T]``, nats.
        mask: True where an action is trained, ``[B, T]``.

    Returns:
        The factors; 1 on every action without a correction.

    Source:
        The ratio against proximal log-probs: Hilton et al. 2022, "Batch size-invariance for policy optimization".
        ``truncate``: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
        (TIS). ``token_mask``: Ling team 2025, "Every Step Evolves" (IcePop). ``sequence_mask``: Liu et al. 2025,
        "When Speed Kills Stability", with the geometric mean in place of the product; its cap is TIS's default.
    """
    nothing = torch.zeros_like(mask)
    if isinstance(method, NoCorrection):
        return CorrectionFactors(factors=mask.float(), is_truncated=nothing, is_left_out=nothing)
    log_mismatch = masked(proximal_logprobs.detach(), mask) - masked(behaviour_logprobs, mask)
    mismatch = masked(torch.exp(log_mismatch.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)), mask)
    if isinstance(method, TokenMask):
        out = mask & ((mismatch < method.low) | (mismatch > method.high))
        return CorrectionFactors(
            factors=mismatch.masked_fill(out, 0.0), is_truncated=nothing, is_left_out=out
        )
    cap = method.cap if isinstance(method, TruncatedImportance) else TruncatedImportance().cap
    out = mask & _is_sequence_out(method, log_mismatch, mask) if isinstance(method, SequenceMask) else nothing
    return CorrectionFactors(
        factors=mismatch.clamp(max=cap).masked_fill(out, 0.0),
        is_truncated=(mismatch > cap) & ~out,
        is_left_out=out,
    )


def _is_sequence_out(method: SequenceMask, log_mismatch: Tensor, mask: Tensor) -> Tensor:
    """Whether a row's geometric-mean mismatch is out of bounds, ``[B, 1]`` bool."""
    geometric_mean = torch.exp(row_mean(log_mismatch, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    return (geometric_mean < method.low) | (geometric_mean > method.high)
