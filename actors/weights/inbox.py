"""Weight inbox: a rollout worker's side of every transport. Whatever way buckets come, the worker loads them its own.

Base of the rollout workers. The cluster layer calls these; receiving runs in a thread of its own, so a worker goes
on generating while buckets arrive.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypedDict

import torch

from actors.weights.buckets import CPU, Received
from actors.weights.group import Backend, WeightGroup
from actors.weights.ipc import SharedWeights, open_shared
from rl.errors import WeightSyncError
from rl.types import Manifest


class LoadTimes(TypedDict):
    """How long a worker took to take a publication in, seconds."""

    check_s: float
    """Digests."""
    load_s: float
    """Into the engine, merging of adapters included."""


class WeightInbox(ABC):
    """What a rollout worker answers when weights are sent to it.

    Args:
        device: Of the worker.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._group: WeightGroup | None = None
        self._arrived: Sequence[Received] = ()

    @abstractmethod
    async def load_weights(self, manifest: Manifest, *buckets: Received) -> LoadTimes:
        """Check a publication and compute with it from now on."""

    async def join_group(
        self, backend: Backend, rank: int, size: int, address: str, port: int, deadline_s: float
    ) -> None:
        """Join the sender's process group, in the place of one joined before.

        Raises:
            WeightSyncError: If the members do not meet in time.
        """
        self._group = await asyncio.to_thread(
            WeightGroup,
            backend,
            rank=rank,
            size=size,
            address=address,
            port=port,
            deadline_s=deadline_s,
            device=self.device if backend == "nccl" else CPU,
        )

    async def receive_weights(self) -> int:
        """Take in the publication that is broadcast now; return its bytes. Nothing is loaded yet.

        Raises:
            WeightSyncError: If the sender is gone or late.
        """
        group = self._group
        if group is None:
            raise WeightSyncError("this worker is in no process group; join_group comes first")
        self._arrived = ()
        self._arrived = await asyncio.to_thread(lambda: [*group.receive()])
        return sum(len(bucket) for bucket in self._arrived)

    async def load_received(self, manifest: Manifest) -> LoadTimes:
        """Load what ``receive_weights`` took in.

        Raises:
            WeightSyncError: If a bucket is missing or damaged; nothing has changed then.
        """
        arrived, self._arrived = self._arrived, ()
        return await self.load_weights(manifest, *arrived)

    async def load_shared(self, *shared: SharedWeights) -> LoadTimes:
        """Load the publication that lies in this worker's GPU.

        Raises:
            WeightSyncError: If no learner rank is on this GPU, or a bucket is damaged.
        """
        manifest, buckets = open_shared(shared, self.device)
        return await self.load_weights(manifest, *buckets)
