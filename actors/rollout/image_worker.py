"""Image rollout worker: the picture blocks of many chains, painted by one pipeline in a thread of its own.

The thread does everything that touches the model, in the order it was asked for, so weights change between batches
only. Requests that fit one batch are painted together, as soon as the thread is free; with ``deterministic`` every
call is its own fixed batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from actors.policies.denoising.sampler import Painted, PaintJob
from actors.rollout.painter import Painter
from actors.rollout.worker import RolloutSpec, RolloutWorker
from actors.shared.gpu import freed
from actors.weights.buckets import CPU, Received
from actors.weights.inbox import LoadTimes
from rl.compat.torchvision import ensure_torchvision
from rl.errors import RolloutError
from rl.spans import span
from rl.types import Example, ImageReply, ImageRequest, Manifest, Metrics, Pixels

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A job and the promise of its picture and the weight version that painted it."""

    job: PaintJob
    future: Future[tuple[Painted, int]] = field(default_factory=Future)


class ImageRolloutWorker(RolloutWorker):
    """Paints pictures. ``micro_batch_size`` bounds a batch; the canary claims to be the chain's last block."""

    def __init__(self, spec: RolloutSpec) -> None:
        super().__init__(spec)
        self._batch_size = spec.config.learner.micro_batch_size
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="image-rollout")
        self._started: Future[Painter] = Future()
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._counts = {"num_batches": 0.0, "num_pictures": 0.0}

    def setup(self) -> None:
        """Load the pipeline.

        Raises:
            RolloutError: If the directory holds no pipeline that loads.
        """
        ensure_torchvision()
        torch.set_num_threads(self.spec.config.num_threads)
        if self.spec.deterministic:
            torch.use_deterministic_algorithms(True)
        try:
            self._started.set_result(Painter(self.spec))
        except (OSError, ValueError) as error:
            raise RolloutError(f"{self.spec.directory} holds no picture policy: {error}") from error

    @property
    def painter(self) -> Painter:
        """The pipeline; there after ``setup``."""
        return self._started.result(timeout=0)

    def close(self) -> None:
        """Let the running batch end and fail what still waits."""
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
        self._executor.shutdown(cancel_futures=True)
        for waiting in left:
            waiting.future.set_exception(RolloutError("the image rollout worker was closed"))

    def stats(self) -> Metrics:
        """Return batches and pictures so far, pictures waiting, and the weight version."""
        num_waiting = float(len(self._waiting))
        return {**self._counts, "num_waiting": num_waiting, "version": float(self.version)}

    # ------------------------------------------------------------------------ painting

    async def generate(self, requests: Sequence[ImageRequest], *pictures: Pixels) -> tuple[Any, ...]:
        """Paint one picture for each request.

        Args:
            requests: Of any sizes.
            pictures: What the requests' indexes point into.

        Returns:
            The list of ``ImageReply``, then picture and ``DenoisingSegment`` of each request: flat, so that each
            can be an object of its own in a store.

        Raises:
            RolloutError: If painting failed; the other requests of the batch get it too.
        """
        waiting = [_Waiting(job=_job(request, pictures)) for request in requests]
        if self.spec.deterministic:
            for batch in _batches(waiting, self._batch_size):
                self._submit(batch)
        else:
            with self._lock:
                self._waiting.extend(waiting)
            for _ in waiting:  # each wakes the thread once; those that find nothing left do nothing
                self._submit(None)
        with self.meter.taking(len(requests)):
            done = await asyncio.gather(*[asyncio.wrap_future(item.future) for item in waiting])
        replies = [
            ImageReply(
                request_id=request.request_id,
                num_actions=int(painted.segment.action_mask.sum()),
                version=version,
            )
            for request, (painted, version) in zip(requests, done, strict=True)
        ]
        return replies, *[part for painted, _ in done for part in (painted.picture, painted.segment)]

    def _submit(self, batch: list[_Waiting] | None) -> None:
        """Have the thread paint ``batch``, or what fits together of all that waits."""
        taken: list[_Waiting] = list(batch or ())

        def work() -> tuple[list[Painted], int]:
            if batch is None:
                taken.extend(self._take())
            return self._paint([item.job for item in taken]), self.version

        self._executor.submit(work).add_done_callback(lambda task: _settle(taken, task))

    def _take(self) -> list[_Waiting]:
        """Take the oldest waiting job and all that fit its batch, up to the largest batch."""
        with self._lock:
            if not self._waiting:
                return []
            key = self._waiting[0].job.key
            fitting = [item for item in self._waiting if item.job.key == key]
            taken = fitting[: self._batch_size]
            chosen = {id(item) for item in taken}
            self._waiting = deque(item for item in self._waiting if id(item) not in chosen)
        return [item for item in taken if item.future.set_running_or_notify_cancel()]

    def _paint(self, jobs: Sequence[PaintJob]) -> list[Painted]:
        if not jobs:
            return []
        with span("paint", num_pictures=len(jobs), px=jobs[0].request.size_px, version=self.version):
            painted = self.painter.paint(jobs)
        self._counts["num_batches"] += 1
        self._counts["num_pictures"] += len(jobs)
        return painted

    # ------------------------------------------------------------------------ weights

    async def load_weights(self, manifest: Manifest, *buckets: Received) -> LoadTimes:
        """Take a publication, after all that was asked for before it.

        Raises:
            WeightSyncError: If a bucket is damaged, or names or shapes are not the net's. Nothing has changed then.
        """
        return await self._in_thread(lambda: self._load(manifest, buckets))

    @span("load weights")
    def _load(self, manifest: Manifest, buckets: Sequence[Received]) -> LoadTimes:
        times = self.painter.load(manifest, buckets)
        self.meter.version = manifest.version
        return times

    async def sleep(self) -> int:
        """Leave the GPU to others, after all that was asked for before.

        Returns:
            Bytes of GPU memory given back; 0 on the CPU, where nothing is done.
        """
        return await self._in_thread(lambda: freed(self.device, lambda: self.painter.move(CPU)))

    async def wake(self) -> None:
        """Come back to the GPU with the weights as they were."""
        await self._in_thread(lambda: self.painter.move(self.device))

    async def canary(self) -> Example:
        """Paint the same fixed picture by the configured sampler, with one before it, for the learner to score."""
        return await self._in_thread(self.painter.canary)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._executor.submit(work))


def _job(request: ImageRequest, pictures: Sequence[Pixels]) -> PaintJob:
    named = {name: pictures[index] for name, index in request.pictures.items()}
    return PaintJob(request=request, pictures=named)


def _batches(waiting: Sequence[_Waiting], size: int) -> list[list[_Waiting]]:
    """Cut one call's jobs into batches of one key, in order."""
    by_key: dict[Hashable, list[_Waiting]] = {}
    for item in waiting:
        by_key.setdefault(item.job.key, []).append(item)
    return [items[i : i + size] for items in by_key.values() for i in range(0, len(items), size)]


def _settle(taken: Sequence[_Waiting], task: Future[tuple[list[Painted], int]]) -> None:
    """Keep the promises of a batch, or break all of them with what broke it."""
    error = RolloutError("the image rollout worker was closed") if task.cancelled() else task.exception()
    if error is not None:
        for item in taken:
            failure = RolloutError(f"{item.job.request.request_id}: {type(error).__name__}: {error}")
            failure.__cause__ = error
            item.future.set_exception(failure)
        return
    painted, version = task.result()
    for item, result in zip(taken, painted, strict=True):
        item.future.set_result((result, version))
