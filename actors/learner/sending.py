"""Weight sender of a learner rank: streams, broadcasts or shares what is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch

from actors.learner.model import LearnerModel
from actors.learner.spec import LearnerSpec
from actors.weights.buckets import CPU, Bucket, BufferPool, Bytes, ahead, pack, stream_buckets
from actors.weights.ipc import SharedWeights
from actors.weights.outbox import WeightOutbox
from rl.spans import span
from rl.types import Manifest

T = TypeVar("T")


class WeightSender:
    """Sends a model's weights; collective over the ranks.

    Args:
        spec: Of the rank.
        model: What is sent.
    """

    def __init__(self, spec: LearnerSpec, model: LearnerModel) -> None:
        self._spec, self._model = spec, model
        self._buffers = BufferPool()
        self.outbox = WeightOutbox(model.device)

    def publish(self, version: int, *, averaged: bool) -> Iterator[list[Bytes] | Manifest]:
        """Stream the weights; on ranks other than 0 the stream is empty, and must be exhausted all the same."""
        is_gathered = self._spec.config.learner.zero_stage == 3
        pool = self._buffers if is_gathered or self._model.device.type != "cpu" else None
        parts = self._parts(partial(stream_buckets, pool=pool), version, averaged=averaged)
        # Gathering is collective and stays in this thread; where nothing is gathered, the next bucket is digested while
        # this one is copied away.
        return parts if is_gathered else ahead(parts)

    def broadcast(self, version: int, *, averaged: bool) -> Manifest | None:
        """Send the weights through the process group; return the manifest on rank 0."""
        device = self._model.device if self._spec.config.rollout.transport == "nccl" else CPU
        parts = self._packed(device, version, averaged=averaged)
        if self._spec.rank == 0:
            return self.outbox.broadcast(parts)
        for _ in parts:
            pass
        return None

    def share(self, version: int, *, averaged: bool) -> SharedWeights:
        """Keep the weights on this rank's GPU for the workers on it."""
        return self.outbox.share(
            self._packed(self._model.device, version, averaged=averaged, every_rank=True)
        )

    def _packed(
        self, device: torch.device, version: int, *, averaged: bool, every_rank: bool = False
    ) -> Iterator[Bucket | Manifest]:
        make = partial(pack, device=device, pool=self._buffers)
        return self._parts(make, version, averaged=averaged, every_rank=every_rank)

    def _parts(
        self, make: Callable[..., Iterator[T]], version: int, *, averaged: bool, every_rank: bool = False
    ) -> Iterator[T]:
        """Gather what is published and make buckets of it; on ranks that only help to gather, yield nothing."""
        spec = self._spec
        with span("publish", version=version), self._model.shown(averaged=averaged):
            tensors = self._model.trained_weights()
            if spec.rank == 0 or every_rank:
                yield from make(spec.policy_name, version, tensors, spec.bucket_bytes)
            else:
                for _ in tensors:
                    pass
