"""Image rollout worker: the picture blocks of many chains, painted by one pipeline in a thread of its own.

The thread does everything that touches the model, in the order it was asked for, so weights change between batches
only. Requests that fit one batch are painted together, as soon as the thread is free; with ``deterministic`` every
call is its own fixed batch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from actors.policies.denoising.sampler import Painted, PaintJob, ReadyJob
from actors.rollout.painter import Painter
from actors.rollout.worker import RolloutSpec, RolloutWorker
from actors.shared.gpu import freed
from actors.weights.buckets import CPU, Received
from actors.weights.inbox import LoadTimes
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError, RolloutError
from rl.spans import span
from rl.types import Example, ImageReply, ImageRequest, Manifest, Metrics, Pixels

T = TypeVar("T")
logger = logging.getLogger(__name__)


Answer = tuple[Painted, tuple[int, ...], int]
"""A picture, its shape key and the weight version that painted it."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    """A job and the promise of its picture."""

    job: PaintJob
    ready: ReadyJob | None = None
    """Set by the thread that paints."""
    future: Future[Answer] = field(default_factory=Future)


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
            ConfigError: If the directory holds no pipeline whose steps can be scored.
            RolloutError: If it does not load.
        """
        ensure_torchvision()
        torch.set_num_threads(self.spec.config.num_threads)
        if self.spec.deterministic:
            torch.use_deterministic_algorithms(True)
        try:
            self._started.set_result(Painter(self.spec))
        except ConfigError:
            raise
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
            The list of ``ImageReply``, then picture, ``DenoisingSegment`` and what the text encoders said of each
            request: flat, so that each can be an object of its own in a store.

        Raises:
            RolloutError: If painting failed; the other requests of the batch get it too.
        """
        waiting = [_Waiting(job=_job(request, pictures)) for request in requests]
        if self.spec.deterministic:
            self._submit(waiting)
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
                steps=tuple(np.flatnonzero(painted.segment.action_mask).tolist()),
                shape_key=shape_key,
                version=version,
            )
            for request, (painted, shape_key, version) in zip(requests, done, strict=True)
        ]
        return replies, *[part for made, *_ in done for part in (made.picture, made.segment, made.told)]

    def _submit(self, fixed: Sequence[_Waiting] | None) -> None:
        """Have the thread paint ``fixed`` in batches of its own, or what fits together of all that waits."""
        taken: list[_Waiting] = list(fixed or ())

        def work() -> list[Answer]:
            if fixed is not None:
                return self._paint_all(taken)
            self._take(taken)
            return self._paint([self._ready(item) for item in taken])

        self._executor.submit(work).add_done_callback(lambda task: _settle(taken, task))

    def _ready(self, item: _Waiting) -> ReadyJob:
        """Have a job's text encoders answer, once."""
        if item.ready is None:
            item.ready = self.painter.ready(item.job)
        return item.ready

    def _take(self, taken: list[_Waiting]) -> None:
        """Add the oldest waiting job and all that fit its batch to ``taken``, up to the largest batch.

        A job is in ``taken`` before anything can fail for it, so that its promise is broken if something does.
        """
        while not taken:
            with self._lock:
                if not self._waiting:
                    return
                oldest = self._waiting.popleft()
            if oldest.future.set_running_or_notify_cancel():
                taken.append(oldest)
        key = self._ready(taken[0]).key
        with self._lock:
            waiting = list(self._waiting)
        for item in waiting:
            if len(taken) == self._batch_size:
                break
            try:
                is_fitting = self._ready(item).key == key
            except Exception:  # it fails again, and then breaks its own promise, when it is the oldest
                logger.debug("%s cannot be painted", item.job.request.request_id, exc_info=True)
                continue
            if is_fitting:
                with self._lock:
                    self._waiting.remove(item)
                if item.future.set_running_or_notify_cancel():
                    taken.append(item)

    def _paint_all(self, items: Sequence[_Waiting]) -> list[Answer]:
        """Paint one call's jobs, in batches of one key, in order."""
        by_key: dict[Hashable, list[int]] = {}
        for index, item in enumerate(items):
            by_key.setdefault(self._ready(item).key, []).append(index)
        answers: dict[int, Answer] = {}
        for indexes in by_key.values():
            for start in range(0, len(indexes), self._batch_size):
                batch = indexes[start : start + self._batch_size]
                painted = self._paint([self._ready(items[index]) for index in batch])
                answers |= dict(zip(batch, painted, strict=True))
        return [answers[index] for index in range(len(items))]

    def _paint(self, jobs: Sequence[ReadyJob]) -> list[Answer]:
        if not jobs:
            return []
        with span("paint", num_pictures=len(jobs), px=jobs[0].job.request.size_px, version=self.version):
            painted = self.painter.paint(jobs)
        self._counts["num_batches"] += 1
        self._counts["num_pictures"] += len(jobs)
        return [(made, ready.shape_key, self.version) for made, ready in zip(painted, jobs, strict=True)]

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


def _settle(taken: Sequence[_Waiting], task: Future[list[Answer]]) -> None:
    """Keep the promises of a batch, or break all of them with what broke it."""
    error = RolloutError("the image rollout worker was closed") if task.cancelled() else task.exception()
    if error is not None:
        for item in taken:
            failure = RolloutError(f"{item.job.request.request_id}: {type(error).__name__}: {error}")
            failure.__cause__ = error
            item.future.set_exception(failure)
        return
    for item, answer in zip(taken, task.result(), strict=True):
        item.future.set_result(answer)
