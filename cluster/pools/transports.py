"""Transports: the driver's side of the ways weights travel; what each costs stands in ``docs/weights.md``.

A transport has a learner group send its present weights to some rollout workers, and has them load what came. Every
way carries the same manifest and buckets, and ends in the same check of digests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.pools.learner_group import LearnerGroup
from cluster.runtime.calls import Call, Worker, gather, lost_among
from cluster.runtime.hosts import rendezvous
from rl.errors import VlcotError, WorkerLostError
from rl.types import Manifest, Metrics

ALIVE_S = 5.0
"""Longest wait for a sign of life, when it is asked who broke a broadcast, seconds."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A publication on its way: the learners have gathered, packed and sent it."""

    manifest: Manifest
    method: str
    """What a worker is asked to load it by."""
    arguments: tuple[Any, ...]


@dataclass(slots=True)
class Transport(ABC):
    """Moves the weights of one policy: first ``send``, then ``load``.

    Learners are busy in the first, workers' engines in the second only, so both fit on one GPU in turns. A new set
    of workers (one was replaced) may be passed any time, the same to both.
    """

    group: LearnerGroup

    @abstractmethod
    def send(self, workers: Sequence[Worker], *, averaged: bool) -> Sent:
        """Send the present weights, or their moving average.

        Raises:
            WeightSyncError: If the workers cannot be reached.
            WorkerLostError: If a worker's process ended; names it.
            CallTimeoutError: If anything outlived the group's deadline.
        """

    def load(self, sent: Sent, workers: Sequence[Worker]) -> Metrics:
        """Have every worker check and load what was sent.

        Returns:
            ``check_s`` (digests) and ``load_s`` of the slowest worker, seconds.

        Raises:
            WeightSyncError: If it did not arrive intact.
            WorkerLostError: If a worker's process ended; names it.
            CallTimeoutError: If a worker outlived the group's deadline.
        """
        calls = [worker.call(sent.method, *sent.arguments) for worker in workers]
        times = gather(calls, deadline_s=self.group.deadline_s)
        self._loaded()
        return {name: max(worker[name] for worker in times) for name in ("check_s", "load_s")}

    def _loaded(self) -> None:  # noqa: B027  # most ways have nothing to give back
        """Give back what was held for the workers."""


@dataclass(slots=True)
class ObjectStore(Transport):
    """Through Ray's object store: any machines, one copy a machine, nothing to set up."""

    def send(self, workers: Sequence[Worker], *, averaged: bool) -> Sent:
        """Publish to the store."""
        manifest, buckets = self.group.publish(averaged=averaged)
        return Sent(manifest, "load_weights", (manifest, *buckets))


@dataclass(slots=True)
class Broadcast(Transport):
    """Through a process group of learner rank 0 and all workers: gloo, or NCCL between GPUs."""

    backend: str = "gloo"
    members: tuple[str, ...] = field(default=())
    """Names and actors of the workers in the open group."""

    def send(self, workers: Sequence[Worker], *, averaged: bool) -> Sent:
        """Broadcast while all workers receive."""
        self._meet(workers)
        receiving = [worker.call("receive_weights") for worker in workers]
        sending = self.group.call_all("broadcast", averaged=averaged)
        manifest, *_ = self._gather([*sending, *receiving], workers)
        return Sent(manifest, "load_received", (manifest,))

    def _meet(self, workers: Sequence[Worker]) -> None:
        """Open a process group with exactly these workers, unless it is open."""
        members = tuple(f"{worker.name} {worker.actor}" for worker in workers)
        if members == self.members:
            return
        deadline_s, size = self.group.deadline_s, len(workers) + 1
        address, port = rendezvous(self.group.ranks[0], deadline_s=deadline_s)
        calls = [self.group.ranks[0].call("open_group", self.backend, size=size, address=address, port=port)]
        for rank, worker in enumerate(workers, start=1):
            calls.append(worker.call("join_group", self.backend, rank, size, address, port, deadline_s))
        self._gather(calls, workers)
        self.members = members

    def _gather(self, calls: Sequence[Call], workers: Sequence[Worker]) -> list[Any]:
        """Wait for all; where a broadcast broke, say whose process ended."""
        try:
            return gather(calls, deadline_s=self.group.deadline_s)
        except (VlcotError, BaseExceptionGroup) as error:
            self.members = ()
            if isinstance(error, WorkerLostError):
                raise
            if lost := lost_among([*self.group.ranks, *workers], within_s=ALIVE_S):
                raise WorkerLostError(
                    f"{', '.join(lost)}: the worker process ended during a {self.backend} transfer of policy "
                    f"{self.group.policy}'s weights"
                ) from error
            raise


@dataclass(slots=True)
class SharedMemory(Transport):
    """As handles of memory on the GPU that learner ranks and workers share (CUDA IPC)."""

    def send(self, workers: Sequence[Worker], *, averaged: bool) -> Sent:
        """Share every rank's part."""
        shared = self.group.wait_all("share", averaged=averaged)
        return Sent(shared[0].manifest, "load_shared", tuple(shared))

    def _loaded(self) -> None:
        self.group.wait_all("release")


def make_transport(kind: str, group: LearnerGroup) -> Transport:
    """Return the transport of ``policies.*.rollout.transport`` for a policy's learners."""
    if kind in ("gloo", "nccl"):
        return Broadcast(group, backend=kind)
    return SharedMemory(group) if kind == "ipc" else ObjectStore(group)
