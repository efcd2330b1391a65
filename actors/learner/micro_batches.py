"""Micro-batches of a learner rank: fetched, collated, and made the actions that their loss is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from actors.policies.base import CHUNKS, PolicyBatch, TrainablePolicy
from rl.loss.actions import Actions, ActionScores
from rl.ports import Store
from rl.types import MicroBatch


class MicroBatchLoader:
    """Fetches and collates each micro-batch while the one before it is computed.

    Args:
        policy: Collates.
        store: Resolves the items' handles.
        name: Of the policy.
    """

    def __init__(self, policy: TrainablePolicy, store: Store, *, name: str) -> None:
        self._policy, self._store = policy, store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"learner-{name}-prefetch")

    def collated(self, micros: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, PolicyBatch]]:
        """Yield micro-batches with their tensors, in order."""
        coming = self._thread.submit(self._fetch, micros[0]) if micros else None
        for index, micro in enumerate(micros):
            assert coming is not None
            batch = coming.result()
            if index + 1 < len(micros):
                coming = self._thread.submit(self._fetch, micros[index + 1])
            yield micro, batch

    def _fetch(self, micro: MicroBatch) -> PolicyBatch:
        examples = self._store.get([item.handle for item in micro.items])
        return self._policy.collate(
            [
                replace(example, steps=item.steps) if item.steps else example
                for example, item in zip(examples, micro.items, strict=True)
            ]
        )

    def close(self) -> None:
        """Stop fetching."""
        self._thread.shutdown(cancel_futures=True)


def inputs_on(
    device: torch.device, batch: PolicyBatch, *, num_chunks: int | None = None
) -> Mapping[str, Any]:
    """Return what the policy's ``forward`` takes, on ``device``.

    Args:
        device: Where the policy is.
        batch: Collated.
        num_chunks: What all ranks have agreed on; None where all have the same rows.
    """
    inputs = {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.inputs.items()
    }
    return inputs if num_chunks is None or CHUNKS not in inputs else {**inputs, CHUNKS: num_chunks}


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
        block_of=batch.block_of.to(device),
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
