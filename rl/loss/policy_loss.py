"""Policy loss of a micro-batch, put together from its parts, as sums over actions.

Letters: B rows, T actions (padded). Sums, not means: the caller divides by ``rl.loss.aggregation.divisor`` of the
whole optimizer step, so that the gradient does not depend on how the step was cut into rows, micro-batches
and ranks. Whatever stands where the mask is False, NaN and infinity included, touches neither value nor
gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.methods import NoCorrection
from configs.schema import LossConfig, TokenLoss
from rl.loss.actions import MAX_LOG_RATIO, Actions, ActionScores, masked
from rl.loss.aggregation import aggregation_weights, divisor_share
from rl.loss.correction import correction_factors
from rl.loss.kl import kl_terms
from rl.loss.surrogates import surrogate_terms
from rl.types import UpdateStats

BEFORE_UPDATE = ("ratio_before_update/", "mismatch_logprob_nats/")
"""Quantities that mean something only before the first update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """What one micro-batch adds to the loss and to the metrics. All tensors are scalars."""

    loss: Tensor
    """To be minimised, after division by the step's divisor. Gradient flows."""
    divisor_share: Tensor
    """What the micro-batch adds to the step's divisor."""
    num_actions: Tensor
    parts: Mapping[str, Tensor]
    """Parts of ``loss`` by name, with their weights and signs."""
    sums: Mapping[str, Tensor]
    """Sums over actions of what is measured, by the metric's name under the policy."""
    maxima: Mapping[str, Tensor]
    """Largest values over actions, likewise."""

    def stats(self, policy: str, *, is_first: bool) -> UpdateStats:
        """Name the sums for ``policy``; ``is_first``: no update has been made since the batch was sampled."""
        parts = {f"loss/{policy}/{name}": value for name, value in self.parts.items()}
        parts[f"loss/{policy}/total"] = self.loss.detach()
        sums, maxima = (
            {
                f"policy/{policy}/{name}": value
                for name, value in measured.items()
                if is_first or not name.startswith(BEFORE_UPDATE)
            }
            for measured in (self.sums, self.maxima)
        )
        # One transfer from the device for all of them.
        tensors = [self.divisor_share, self.num_actions, *parts.values(), *sums.values(), *maxima.values()]
        share, count, *values = torch.stack([tensor.double() for tensor in tensors]).tolist()
        named = dict(zip([*parts, *sums, *maxima], values, strict=True))
        return UpdateStats(
            sums={name: (named[name], share if name in parts else count) for name in [*parts, *sums]},
            maxima={name: named[name] for name in maxima} if count else {},
        )


def policy_loss(
    config: LossConfig,
    scores: ActionScores,
    actions: Actions,
    *,
    max_actions: int,
    reference: ActionScores | None = None,
    proximal: ActionScores | None = None,
) -> LossSums:
    """Sum a policy's loss over a micro-batch: surrogate, KL to the reference, entropy bonus.

    Args:
        config: Of the policy; a token policy's has an ``entropy_weight``.
        scores: Of the policy now. Gradient flows.
        actions: Mask, advantages and what the rollout worker said.
        max_actions: Most actions a sequence can have.
        reference: Scores of the frozen reference; None leaves the KL out.
        proximal: The learner's scores before the batch's first update; None: these are they. Used with a
            correction only.

    Returns:
        The loss and the sums behind the metrics. Ratios in the metrics are policy over behaviour, action by
        action, whatever the surrogate takes its ratio against.

    Raises:
        ValueError: If shapes differ, or a method lacks step means or entropy.
    """
    mask = actions.mask
    is_corrected = not isinstance(config.correction, NoCorrection)
    old = (proximal or scores).detached() if is_corrected else actions.behaviour
    terms = surrogate_terms(config.surrogate, scores, old, actions.advantages, mask)
    correction = correction_factors(config.correction, old.logprobs, actions.behaviour.logprobs, mask)
    shares = aggregation_weights(config.aggregation, mask, actions.block_of)
    factors = shares * correction.factors
    if actions.weights is not None:
        factors = factors * masked(actions.weights, mask)

    parts = {"surrogate": -(factors * terms.value).sum()}
    sums, maxima = _measured(scores.logprobs.detach(), actions.behaviour.logprobs, mask)
    sums["clip_frac_low"] = terms.is_clipped_low.sum()
    sums["clip_frac_high"] = terms.is_clipped_high.sum()
    if is_corrected:
        sums["mismatch_weight/mean"] = correction.factors.sum()
        sums["mismatch_truncated_frac"] = correction.is_truncated.sum()
        sums["mismatch_masked_frac"] = correction.is_left_out.sum()
    if reference is not None:
        kl = kl_terms(config.kl_estimator, scores, reference, mask)
        parts["kl"] = config.kl_weight * (shares * kl).sum()
        sums["ref_kl_nats/mean"] = kl.sum()
    if scores.entropy is not None:
        entropy = masked(scores.entropy, mask)
        sums["entropy_nats/mean"] = entropy.sum()
    if isinstance(config, TokenLoss) and config.entropy_weight > 0:
        if scores.entropy is None:
            raise ValueError("entropy_weight is above 0, but the policy gives no entropy")
        parts["entropy"] = -config.entropy_weight * (shares * entropy).sum()
    return LossSums(
        loss=torch.stack(list(parts.values())).sum(),
        divisor_share=divisor_share(config.aggregation, mask, max_actions),
        num_actions=mask.sum(),
        parts={name: part.detach() for name, part in parts.items()},
        sums={name: value.detach() for name, value in sums.items()},
        maxima=maxima,
    )


def _measured(
    logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums and maxima of the importance ratio and of what follows from it, without gradient."""
    log_ratio = masked(logprobs, mask) - masked(behaviour_logprobs, mask)
    held = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio, gap = torch.exp(held), log_ratio.abs()
    dev, trained_ratio = (ratio - 1).abs(), masked(ratio, mask)
    sums = {
        "importance_ratio/mean": trained_ratio.sum(),
        "behaviour_kl_nats/mean": (ratio - 1 - held).sum(),
        "ratio_before_update/mean_dev": dev.sum(),
        "mismatch_logprob_nats/mean": gap.sum(),
    }
    top = ratio.new_zeros(1)  # so that the maximum of an empty batch exists
    maxima = {
        name: torch.cat([values.flatten(), top]).max()
        for name, values in (
            ("importance_ratio/max", trained_ratio),
            ("ratio_before_update/max_dev", dev),
            ("mismatch_logprob_nats/max", gap),
        )
    }
    return sums, maxima
