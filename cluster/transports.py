"""The driver's side of the ways weights travel; what each costs stands in ``docs/weights.md``.

A transport has a learner group send its present weights to some rollout workers, and has them load what came. Every
way carries the same manifest and buckets, and ends in the same check of digests.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.calls import Call, Worker, gather
from cluster.rendezvous import rendezvous
from rl.errors import VlcotError, WorkerLostError
from rl.types import Manifest, Metrics

if TYPE_CHECKING:
    from cluster.learners import LearnerGroup

Loads = Callable[[], list[Call]]
"""Starts the workers' loads."""
ALIVE_S = 5.0
"""Longest wait for a sign of life, when it is asked who broke a broadcast, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A publication that all workers have loaded."""

    manifest: Manifest
    send_s: float
    """Gathering, packing, digests and sending, seconds."""
    check_s: float
    """Digests in the slowest worker, seconds."""
    load_s: float
    """Loading in the slowest worker, seconds."""

    def metrics(self, policy: str) -> Metrics:
        """Return what is logged of it."""
        return {
            f"weights/{policy}/published_bytes": float(sum(self.manifest.bucket_bytes)),
            f"time/weights/{policy}/send_s": self.send_s,
            f"time/weights/{policy}/check_s": self.check_s,
            f"time/weights/{policy}/load_s": self.load_s,
        }


@dataclass(slots=True)
class Transport(ABC):
    """Moves the weights of one policy.

    A new set of workers (one was replaced) may be passed in any call.
    """

    group: LearnerGroup

    def publish(
        self, workers: Sequence[Worker], *, averaged: bool, hand_over: Callable[[], None] = lambda: None
    ) -> Publication:
        """Send the present weights, or their moving average, and have every worker load them.

        Args:
            workers: Who loads them.
            averaged: Whether it is the moving average.
            hand_over: Called between the two: where they share GPUs, the learners make room for the workers.

        Raises:
            WeightSyncError: If they did not arrive intact.
            WorkerLostError: If a worker's process ended; names it.
            CallTimeoutError: If anything outlived the group's deadline.
        """
        begin = time.perf_counter()
        manifest, load = self._send(workers, averaged=averaged)
        sent = time.perf_counter()
        hand_over()
        times = gather(load(), deadline_s=self.group.deadline_s)
        self._loaded()
        return Publication(
            manifest=manifest,
            send_s=sent - begin,
            check_s=max(one["check_s"] for one in times),
            load_s=max(one["load_s"] for one in times),
        )

    @abstractmethod
    def _send(self, workers: Sequence[Worker], *, averaged: bool) -> tuple[Manifest, Loads]:
        """Send; return the manifest, and what has the workers load."""

    def _loaded(self) -> None:  # noqa: B027  # most ways have nothing to give back
        """Give back what was held for the workers."""


@dataclass(slots=True)
class ObjectStore(Transport):
    """Through Ray's object store: any machines, one copy a machine, nothing to set up."""

    def _send(self, workers: Sequence[Worker], *, averaged: bool) -> tuple[Manifest, Loads]:
        manifest, buckets = self.group.publish(averaged=averaged)
        return manifest, lambda: [worker.call("load_weights", manifest, *buckets) for worker in workers]


@dataclass(slots=True)
class Broadcast(Transport):
    """Through a process group of learner rank 0 and all workers: gloo, or NCCL between GPUs."""

    backend: str = "gloo"
    members: tuple[str, ...] = field(default=())
    """Names and actors of the workers in the open group."""

    def _send(self, workers: Sequence[Worker], *, averaged: bool) -> tuple[Manifest, Loads]:
        self._meet(workers)
        receiving = [worker.call("receive_weights") for worker in workers]
        sending = self.group.call_all("broadcast", averaged=averaged)
        manifest, *_ = self._gather([*sending, *receiving], workers)
        return manifest, lambda: [worker.call("load_received", manifest) for worker in workers]

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
            if lost := lost_workers([*self.group.ranks, *workers]):
                raise WorkerLostError(
                    f"{', '.join(lost)}: the worker process ended during a {self.backend} transfer of policy "
                    f"{self.group.policy}'s weights"
                ) from error
            raise


@dataclass(slots=True)
class SharedMemory(Transport):
    """As handles of memory on the GPU that learner ranks and workers share (CUDA IPC)."""

    def _send(self, workers: Sequence[Worker], *, averaged: bool) -> tuple[Manifest, Loads]:
        shared = self.group.wait_all("share", averaged=averaged)
        return shared[0].manifest, lambda: [worker.call("load_shared", *shared) for worker in workers]

    def _loaded(self) -> None:
        self.group.wait_all("release")


def make_transport(kind: str, group: LearnerGroup) -> Transport:
    """Return the transport of ``policies.*.transport`` for a policy's learners."""
    if kind in ("gloo", "nccl"):
        return Broadcast(group, backend=kind)
    return SharedMemory(group) if kind == "ipc" else ObjectStore(group)


def lost_workers(workers: Sequence[Worker]) -> list[str]:
    """Return the names of those whose process has ended."""
    lost = []
    for worker in workers:
        call = Call(name=worker.name, method="alive", ref=worker.actor.__ray_ready__.remote())
        try:
            gather([call], deadline_s=ALIVE_S)
        except WorkerLostError:
            lost.append(worker.name)
        except VlcotError:
            continue  # busy, not gone
    return lost
