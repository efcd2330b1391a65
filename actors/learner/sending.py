"""What a learner rank does with its weights besides training them: sends them, and moves them off its GPU.

The other half of ``actors.learner.rank.LearnerRank``, which says when a method is collective.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from actors.learner.ema import WeightAverage
from actors.learner.spec import LearnerSpec
from actors.policies.base import TrainablePolicy
from actors.shared import deepspeed_engine as ds
from actors.shared import gpu, lora
from actors.weights.buckets import CPU, Bucket, BufferPool, Bytes, ahead, lend, pack
from actors.weights.group import Backend
from actors.weights.ipc import SharedWeights
from actors.weights.outbox import WeightOutbox
from configs.methods import Adapter
from rl.spans import span
from rl.types import Manifest

T = TypeVar("T")


class SendsWeights:
    """Mixed into a learner rank, which makes what is named here."""

    spec: LearnerSpec
    version: int
    _device: torch.device
    _policy: TrainablePolicy
    _reference: TrainablePolicy | None
    _average: WeightAverage | None
    _engine: Any
    _outbox: WeightOutbox
    _buffers: BufferPool

    @abstractmethod
    def _shown(self, *, averaged: bool) -> AbstractContextManager[None]:
        """Return a context in which the model computes with the average, or as it is."""

    def open_group(self, backend: Backend, *, size: int, address: str, port: int) -> None:
        """Become the sender of a process group of ``size`` members; rank 0 only."""
        self._outbox.open_group(
            backend, size=size, address=address, port=port, deadline_s=self.spec.deadline_s
        )

    def publish(self, *, averaged: bool = False) -> Iterator[list[Bytes] | Manifest]:
        """Stream the current weights.

        Every rank must exhaust the iterator: under ZeRO-3 each bucket is gathered as it is asked for, never
        the whole model.

        Args:
            averaged: Publish the moving average instead of the weights that are trained.

        Yields:
            On rank 0 the buckets, lent until the stream ends, then the manifest; on the others nothing.
        """
        is_gathered = self.spec.config.zero_stage == 3
        pool = self._buffers if is_gathered or self._device.type != "cpu" else None
        parts = self._parts(partial(lend, pool=pool), averaged=averaged)
        # Gathering is collective and stays in this thread; where nothing is gathered, the next bucket is digested while
        # this one is copied away. Ray takes a generator function, nothing that returns one.
        yield from parts if is_gathered else ahead(parts)

    def broadcast(self, *, averaged: bool = False) -> Manifest | None:
        """Send the current weights through the process group; collective over the ranks, as ``publish``.

        Returns:
            On rank 0 the manifest.

        Raises:
            WeightSyncError: If a receiver is gone or late.
        """
        parts = self._packed(self._device if self.spec.config.transport == "nccl" else CPU, averaged=averaged)
        if self.spec.rank == 0:
            return self._outbox.broadcast(parts)
        for _ in parts:
            pass
        return None

    def share(self, *, averaged: bool = False) -> SharedWeights:
        """Keep the current weights on this rank's GPU for the workers on it, until ``release``."""
        return self._outbox.share(self._packed(self._device, averaged=averaged, every_rank=True))

    def release(self) -> None:
        """Give back what was shared."""
        self._outbox.release()

    def _packed(
        self, device: torch.device, *, averaged: bool, every_rank: bool = False
    ) -> Iterator[Bucket | Manifest]:
        return self._parts(
            partial(pack, device=device, pool=self._buffers), averaged=averaged, every_rank=every_rank
        )

    def _parts(
        self, make: Callable[..., Iterator[T]], *, averaged: bool, every_rank: bool = False
    ) -> Iterator[T]:
        """Gather what is published and make buckets of it; on ranks that only help to gather, yield nothing."""
        spec = self.spec
        with span("publish", version=self.version), self._shown(averaged=averaged):
            tensors = self._whole_weights(self._published())
            if spec.rank == 0 or every_rank:
                yield from make(spec.policy_name, self.version, tensors, spec.bucket_bytes)
            else:
                for _ in tensors:
                    pass

    def _published(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what is trained: all of the net, or its adapters."""
        named = self._policy.published()
        return lora.adapters_only(named) if isinstance(self.spec.config.lora, Adapter) else named

    def _whole_weights(self, named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
        return ds.stream_whole(
            named,
            zero_stage=self.spec.config.zero_stage,
            max_bytes=self.spec.bucket_bytes,
        )

    # ------------------------------------------------------------------------ turns on a GPU

    def sleep(self) -> int:
        """Leave the GPU to others: everything this rank holds goes to the host. Only between steps.

        Returns:
            Bytes of GPU memory given back; 0 on the CPU, where there is nothing to give.
        """
        return gpu.freed(self._device, partial(self._move, is_asleep=True))

    def wake(self) -> None:
        """Come back to the GPU; the rank goes on as if it had not slept."""
        if self._device.type == "cuda":
            self._move(is_asleep=False)

    def _move(self, *, is_asleep: bool) -> None:
        device = CPU if is_asleep else self._device
        (ds.offload if is_asleep else ds.reload)(self._engine, zero_stage=self.spec.config.zero_stage)
        if self._reference is not None:
            self._reference.to(device)
        if self._average is not None:
            self._average.move(device)
