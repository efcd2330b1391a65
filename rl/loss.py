"""The clipped policy-gradient loss and the KL to a reference, as sums over actions.

Letters: B rows, T actions (padded). An action is a token or a denoising step; nothing here asks which.
Sums, not means: the caller divides by the action count of the whole optimizer step, so that the gradient does
not depend on how the batch was cut into rows, micro-batches and ranks. Whatever stands where ``action_mask``
is False, NaN and infinity included, touches neither value nor gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rl.types import UpdateStats

MAX_LOG_RATIO = 20.0
"""Log-ratios are held within this many nats, so that ``exp`` and its gradient stay finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """What one micro-batch adds to the loss and to the metrics. All tensors are scalars."""

    loss: Tensor
    """Minus the clipped surrogate, summed over actions; to be minimised. Gradient flows."""
    num_actions: Tensor
    ratio: Tensor
    """Sum of importance ratios."""
    ratio_dev: Tensor
    """Sum of ``|ratio - 1|``."""
    ratio_max: Tensor
    ratio_max_dev: Tensor
    clipped_low: Tensor
    """Actions whose gradient the lower bound cut."""
    clipped_high: Tensor
    behaviour_kl: Tensor
    """Sum of the k3 estimate of KL(behaviour || policy)."""
    logprob_dev: Tensor
    """Sum of ``|log ratio|``."""
    logprob_max_dev: Tensor

    def stats(self, policy: str, *, is_first: bool) -> UpdateStats:
        """Name the sums for ``policy``; ``is_first``: no update has been made since the batch was sampled."""
        own = f"policy/{policy}"
        sums = {
            f"loss/{policy}/surrogate": self.loss.detach(),
            f"{own}/importance_ratio/mean": self.ratio,
            f"{own}/behaviour_kl_nats/mean": self.behaviour_kl,
            f"{own}/clip_frac_low": self.clipped_low,
            f"{own}/clip_frac_high": self.clipped_high,
        }
        maxima = {f"{own}/importance_ratio/max": self.ratio_max}
        if is_first:
            sums[f"{own}/ratio_before_update/mean_dev"] = self.ratio_dev
            sums[f"{own}/mismatch_logprob_nats/mean"] = self.logprob_dev
            maxima[f"{own}/ratio_before_update/max_dev"] = self.ratio_max_dev
            maxima[f"{own}/mismatch_logprob_nats/max"] = self.logprob_max_dev
        # One transfer from the device for all of them.
        count, *values = torch.stack([self.num_actions, *sums.values(), *maxima.values()]).tolist()
        tops = zip(maxima, values[len(sums) :], strict=True)
        return UpdateStats(
            sums={name: (value, count) for name, value in zip(sums, values, strict=False)},
            maxima=dict(tops) if count else {},
        )


def policy_loss(
    logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    action_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> LossSums:
    """Sum the clipped surrogate over actions.

    Args:
        logprobs: Current-policy log-probs, ``[B, T]``, nats. Gradient flows.
        behaviour_logprobs: Of the distribution that was sampled from, ``[B, T]``, nats.
        advantages: ``[B, T]``.
        action_mask: True where an action is trained, ``[B, T]``; False in padding rows.
        clip_low: The ratio is held above ``1 - clip_low``. Unitless.
        clip_high: The ratio is held below ``1 + clip_high``. Unitless.

    Returns:
        The loss and the sums behind the metrics.

    Raises:
        ValueError: If shapes differ.

    Source:
        Schulman et al. 2017, eq. 7; asymmetric bounds from Yu et al. 2025 (DAPO), eq. 8.
    """
    mask = action_mask.bool()
    log_ratio = _masked_log_ratio(logprobs, behaviour_logprobs, mask)
    if advantages.shape != mask.shape:
        raise ValueError(f"advantages {list(advantages.shape)} and mask {list(mask.shape)} differ")
    advantages = torch.where(mask, advantages.float(), 0.0)
    ratio = torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)

    seen, log_seen = ratio.detach(), log_ratio.detach()
    dev, log_dev = (seen - 1).abs(), log_seen.abs()
    top = seen.new_zeros(1)  # so that the maximum of an empty batch exists
    return LossSums(
        loss=-surrogate.sum(),
        num_actions=mask.sum().to(seen.dtype),
        ratio=torch.where(mask, seen, 0.0).sum(),
        ratio_dev=dev.sum(),
        ratio_max=torch.cat([torch.where(mask, seen, 0.0).flatten(), top]).max(),
        ratio_max_dev=torch.cat([dev.flatten(), top]).max(),
        clipped_low=((seen < 1 - clip_low) & (advantages < 0)).sum().to(seen.dtype),
        clipped_high=((seen > 1 + clip_high) & (advantages > 0)).sum().to(seen.dtype),
        behaviour_kl=(seen - 1 - log_seen.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)).sum(),
        logprob_dev=log_dev.sum(),
        logprob_max_dev=torch.cat([log_dev.flatten(), top]).max(),
    )


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """Sum over actions of the k3 estimate of KL(policy || reference), never negative.

    Args:
        logprobs: Current-policy log-probs of the sampled actions, ``[B, T]``, nats. Gradient flows.
        reference_logprobs: Reference-policy log-probs of the same, ``[B, T]``, nats.
        action_mask: True where an action is trained, ``[B, T]``.

    Returns:
        Scalar sum, nats.

    Source:
        Schulman 2020, "Approximating KL divergence"; Shao et al. 2024 (GRPO), eq. 4.
    """
    log_ratio = _masked_log_ratio(reference_logprobs.detach(), logprobs, action_mask.bool())
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (torch.exp(log_ratio) - 1 - log_ratio).sum()


def masked_sum(values: Tensor, action_mask: Tensor) -> tuple[float, float]:
    """Sum a detached quantity such as entropy over actions: (sum, count), ready for ``UpdateStats``."""
    mask = action_mask.bool()
    return float(torch.where(mask, values.detach().float(), 0.0).sum()), float(mask.sum())


def _masked_log_ratio(above: Tensor, below: Tensor, mask: Tensor) -> Tensor:
    """Return ``above - below`` in float32, exactly 0 where not ``mask``; masked before any arithmetic."""
    if not above.shape == below.shape == mask.shape:
        raise ValueError(f"shapes differ: {list(above.shape)}, {list(below.shape)}, mask {list(mask.shape)}")
    return torch.where(mask, above.float(), 0.0) - torch.where(mask, below.float(), 0.0)
