"""Weight group: a process group of one sender and its receivers, and the broadcast of a publication through it.

gloo moves host memory, NCCL memory of GPUs; everything else is the same. The group stands beside the process's
default group (DeepSpeed's, vLLM's) and shares nothing with it. Every wait has the group's deadline. It knows neither
Ray nor what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from actors.shared.network import interface_towards
from actors.weights.buckets import Bucket, BufferPool, Received
from configs.errors import first_line
from rl.errors import WeightSyncError

Backend = Literal["gloo", "nccl"]

SENDER = 0
"""Rank of the sender in the group."""
MORE, END = 1, 0
"""What a header announces: another bucket, or the end of the publication."""


class WeightGroup:
    """One member of the group.

    Args:
        backend: ``gloo`` or ``nccl``.
        rank: 0 is the sender.
        size: Members in all.
        address: Host of the sender.
        port: Free TCP port there; the sender listens on it until the group ends.
        deadline_s: Longest wait for the others, at the start and in every broadcast, seconds.
        device: Where buckets are sent from and received: the CPU for gloo, a GPU for NCCL.

    Raises:
        WeightSyncError: If the members do not meet in time.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        rank: int,
        size: int,
        address: str,
        port: int,
        deadline_s: float,
        device: torch.device,
    ) -> None:
        self._backend, self._rank, self._device = backend, rank, device
        self._deadline = timedelta(seconds=deadline_s)
        self._pool = BufferPool()
        try:
            store = _store(address, port, size, is_master=rank == SENDER, timeout=self._deadline)
            make = partial(_gloo, interface_towards(address, port)) if backend == "gloo" else _nccl
            self._group: Any = make(store, rank, size, self._deadline, device)
        except (RuntimeError, ValueError) as error:
            raise WeightSyncError(
                f"{backend}: member {rank} of {size} did not meet the sender at {address}:{port} within "
                f"{deadline_s:g} s (deadline_s): {first_line(error)}"
            ) from error

    def send(self, bucket: Bucket) -> None:
        """Broadcast one bucket; returns when this member's part is done.

        Raises:
            WeightSyncError: If a member is gone or late.
        """
        self._broadcast(self._header(MORE, bucket.data.size))
        self._broadcast(bucket.tensor)

    def finish(self) -> None:
        """Tell the receivers that the publication is whole."""
        self._broadcast(self._header(END, 0))

    def receive(self) -> Iterator[Received]:
        """Yield the buckets of one publication, in order.

        Raises:
            WeightSyncError: If the sender is gone or late.
        """
        while True:
            header = self._header(END, 0)
            self._broadcast(header)
            kind, num_bytes = header.tolist()
            if kind == END:
                return
            yield self._receive_bucket(int(num_bytes))

    def _receive_bucket(self, num_bytes: int) -> Received:
        if self._device.type != "cpu":
            tensor = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
            self._broadcast(tensor)
            return tensor
        data = self._pool.take(num_bytes)
        self._broadcast(torch.from_numpy(data))
        return data

    def close(self) -> None:
        """Leave; members that still wait for this one find its connection closed."""
        self._group = None

    def _header(self, kind: int, num_bytes: int) -> Tensor:
        return torch.from_numpy(np.array([kind, num_bytes], dtype=np.int64)).to(self._device)

    def _broadcast(self, tensor: Tensor) -> None:
        if self._group is None:
            raise WeightSyncError(f"{self._backend}: member {self._rank} has left the group")
        try:
            # With a deadline NCCL's wait blocks this thread too, so that buffers may be used after it.
            self._group.broadcast(tensor, SENDER, self._deadline).wait(self._deadline)
        except RuntimeError as error:
            self._group = None
            raise WeightSyncError(
                f"{self._backend}: member {self._rank} lost the others in a broadcast: {first_line(error)}"
            ) from error


_store: Any = dist.TCPStore  # type: ignore[attr-defined]  # public, and not in the stubs


def _gloo(interface: str, store: Any, rank: int, size: int, deadline: timedelta, device: torch.device) -> Any:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # not in the stubs, as above
    options._devices = [dist.ProcessGroupGloo.create_device(interface=interface)]
    options._timeout = deadline
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int, deadline: timedelta, device: torch.device) -> Any:
    torch.cuda.set_device(device)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = deadline
    return dist.ProcessGroupNCCL(store, rank, size, options)
