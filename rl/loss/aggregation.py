"""Aggregation of a loss: a mean over actions, sequences or blocks, or over a constant number of actions a sequence.

Every term of the loss is a sum of ``weight * term`` over actions, divided by one number for the *whole*
optimizer step. So the gradient does not depend on how the step was cut into rows, micro-batches and ranks.
Letters: B rows, T actions (padded).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rl.types import TrainBatch

Aggregation = Literal["action_mean", "sequence_mean", "block_mean", "constant"]
NUM_BLOCKS = 128
"""Most blocks of a chain: their indexes are 8-bit numbers."""


def aggregation_weights(aggregation: Aggregation, mask: Tensor, block_of: Tensor) -> Tensor:
    """Say how much each action counts before the division by ``divisor``.

    Args:
        aggregation: ``sequence_mean`` divides by the row's actions; ``block_mean`` by those of the row's block and
            by the row's blocks, so that a short block counts as much as a long one; the others count every action as 1.
        mask: True where an action is trained, ``[B, T]``.
        block_of: Index of the block of each action, ``[B, T]``; anything where not ``mask``.

    Returns:
        ``float32[B, T]``; 0 where not ``mask``.

    Source:
        ``sequence_mean``: Shao et al. 2024 (GRPO), eq. 3. ``action_mean``: Yu et al. 2025 (DAPO), eq. 8.
        ``constant``: Liu et al. 2025 (Dr. GRPO), section 3. ``block_mean``: ours.
    """
    weights = mask.to(torch.float32)
    if aggregation == "sequence_mean":
        weights = weights / mask.sum(dim=1, keepdim=True).clamp(min=1)
    if aggregation == "block_mean":
        blocks = torch.where(mask, block_of, 0)
        counts = weights.new_zeros(len(mask), NUM_BLOCKS).scatter_add(1, blocks, weights)
        num_blocks = (counts > 0).sum(dim=1, keepdim=True)
        weights = weights / (counts.gather(1, blocks) * num_blocks).clamp(min=1)
    return weights


def divisor_share(aggregation: Aggregation, mask: Tensor, max_actions: int) -> Tensor:
    """Return what a micro-batch adds to ``divisor``, a scalar; padding rows add nothing.

    Args:
        aggregation: What the loss is a mean of.
        mask: True where an action is trained, ``[B, T]``.
        max_actions: Most actions a sequence can have.
    """
    if aggregation == "action_mean":
        return mask.sum().float()
    num_sequences = mask.any(dim=1).sum().float()
    return num_sequences * max_actions if aggregation == "constant" else num_sequences


def divisor(aggregation: Aggregation, batch: TrainBatch) -> int:
    """Return what the weighted sums of a whole optimizer step are divided by, the same on every rank."""
    if aggregation == "action_mean":
        return batch.num_actions
    return batch.num_sequences * (batch.max_actions if aggregation == "constant" else 1)
