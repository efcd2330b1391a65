"""Rollout worker: the settings and the interface of text and picture workers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.policies.family import PolicyFamily
from actors.weights.inbox import WeightInbox
from configs.schema import BlockConfig, PolicyConfig
from rl.spans import PoolMeter
from rl.types import Example, Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """What a rollout worker is told at birth."""

    directory: Path
    """Checkpoint of the starting weights."""
    config: PolicyConfig
    """Of its policy."""
    family: PolicyFamily
    """Of its policy."""
    chain: Mapping[str, BlockConfig]
    """The chain's blocks in order."""
    seed: int
    """Of the canary."""
    deterministic: bool
    """Serve every call as batches of its own, so that last digits repeat."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device("cuda", 0) if self.config.num_gpus > 0 else torch.device("cpu")


class RolloutWorker(WeightInbox):
    """Generates, takes new weights, proves them. A plain class: the cluster layer spawns it and awaits its methods."""

    def __init__(self, spec: RolloutSpec) -> None:
        super().__init__(spec.device)
        self.spec = spec
        self.meter = PoolMeter(version=0)
        """What the worker has in hand and has done, and its weight version."""

    @property
    def version(self) -> int:
        """Of the weights."""
        return self.meter.version or 0

    @abstractmethod
    def setup(self) -> None:
        """Load the model. Heavy."""

    @abstractmethod
    def close(self) -> None:
        """Stop."""

    @abstractmethod
    def stats(self) -> Metrics:
        """Return counts so far and the weight version."""

    @abstractmethod
    async def generate(self, requests: Sequence[Any], *pictures: Any) -> Any:
        """Answer requests, whose picture indexes point into ``pictures``."""

    @abstractmethod
    async def canary(self) -> Example:
        """Generate from a fixed prompt, for the learner to score."""

    def meters(self) -> list[PoolMeter]:
        """Return what the worker has in hand and has done."""
        return [self.meter]
