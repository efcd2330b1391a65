"""Interface of a policy to its learner, whatever it writes.

A policy is a ``torch.nn.Module`` whose ``forward`` scores actions: tokens or denoising steps. DeepSpeed
wraps it as it is; nothing above this interface knows which kind it is. Letters: B rows, T actions (padded).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from configs.schema import PolicyConfig
from rl.loss.actions import ActionScores
from rl.types import Example

CHUNKS = "num_chunks"
"""Input of policies that make log-probs in parts: how many. ``collate`` gives what its own rows need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBatch:
    """Examples as padded tensors, on the CPU."""

    inputs: Mapping[str, Any]
    """What ``forward`` takes besides the actions; the policy's own business."""
    behaviour_logprobs: Tensor
    """``[B, T]``, nats; 0 where padded or forced."""
    action_mask: Tensor
    """``[B, T]`` bool."""
    block_of: Tensor
    """``[B, T]`` int: index of the chain's block of each action; -1 elsewhere."""
    action_weights: Tensor | None = None
    """``[B, T]`` factors on each action's surrogate; None weighs all alike."""
    behaviour_step_mean: Tensor | None = None
    """Denoising: ``[B, T, n]`` mean of each step as the rollout worker had it; None where nobody asked for it."""


class TrainablePolicy(nn.Module, ABC):
    """A policy inside a learner rank."""

    net_prefix: ClassVar[str] = ""
    """What ``published`` puts before the names of ``trained_net``."""

    @property
    def trained_net(self) -> nn.Module:
        """The module that is published, and that adapters are put into."""
        return self

    @property
    def row_ids(self) -> tuple[int, ...]:
        """Rows of the embeddings that are trained beside adapters: a token policy's tags."""
        return ()

    def move_beside(self, device: torch.device) -> None:
        """Move what the policy computes with and does not train, which no engine knows, to a device."""
        del device

    @classmethod
    @abstractmethod
    def load(cls, directory: Path, config: PolicyConfig, *, block_names: Sequence[str]) -> Self:
        """Read the Hugging Face / diffusers layout. ``block_names`` is the chain's blocks in order."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> PolicyBatch:
        """Pad examples of equal shape key to one batch."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any]) -> ActionScores:
        """Score every action of a collated batch under the distribution it was sampled from."""

    @abstractmethod
    def published(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trained parameters under the names the rollout engine and the checkpoint use."""

    def net_name(self, published: str) -> str:
        """Return a published parameter's name in ``trained_net``."""
        return published.removeprefix(self.net_prefix)

    @abstractmethod
    def export(self, directory: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """Write what the plain library's ``from_pretrained`` loads; ``weights`` by published name."""
