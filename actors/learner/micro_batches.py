"""From a collated micro-batch to the actions its loss is computed from. Knows neither Ray nor DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from actors.policies.base import ActionScores, PolicyBatch
from rl.loss.actions import Actions
from rl.types import MicroBatch


def inputs_on(device: torch.device, batch: PolicyBatch) -> Mapping[str, Tensor]:
    """Return what the policy's ``forward`` takes, on ``device``."""
    return {name: tensor.to(device) for name, tensor in batch.inputs.items()}


def make_actions(micro: MicroBatch, batch: PolicyBatch, device: torch.device) -> Actions:
    """Put mask, advantages and what the rollout worker said together, on ``device``.

    Args:
        micro: Its padding rows have weight 0 and lose their mask; so do actions of blocks without an advantage
            (``rl.advantage.overlong.masked_blocks``), which are not in the batch's counts either.
        batch: The same rows, collated.
        device: Where the policy is.
    """
    rows = torch.tensor(micro.weights) > 0
    trained = torch.stack(
        [
            _in_blocks(blocks, item.advantages)
            for blocks, item in zip(batch.block_of, micro.items, strict=True)
        ]
    )
    mean, weights = batch.behaviour_step_mean, batch.action_weights
    return Actions(
        mask=(batch.action_mask & trained & rows[:, None]).to(device),
        advantages=expand_advantages(micro, batch.block_of).to(device),
        behaviour=ActionScores(
            logprobs=batch.behaviour_logprobs.to(device),
            step_mean=None if mean is None else mean.to(device),
        ),
        weights=None if weights is None else weights.to(device),
    )


def _in_blocks(block_of: Tensor, blocks: Iterable[int]) -> Tensor:
    """Return which actions ``[T]`` belong to one of the blocks."""
    return torch.isin(block_of, torch.tensor(list(blocks), dtype=block_of.dtype))


def expand_advantages(micro: MicroBatch, block_of: Tensor) -> Tensor:
    """Give every action the advantage of its block.

    Args:
        micro: Its items carry an advantage a block.
        block_of: ``[B, T]`` block of each action; -1 elsewhere.

    Returns:
        ``float32[B, T]``; 0 where there is no advantage.
    """
    advantages = torch.zeros(block_of.shape, dtype=torch.float32)
    for row, item in enumerate(micro.items):
        for block, advantage in item.advantages.items():
            advantages[row].masked_fill_(block_of[row] == block, advantage)
    return advantages
