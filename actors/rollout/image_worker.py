"""The image rollout worker: paints the picture blocks of many chains with one diffusers pipeline.

A plain class; the cluster layer spawns it. One thread owns the model and does everything that touches it, in
the order it was asked for, so weights change between batches only. Requests that fit one batch are painted
together, as soon as the thread is free; with ``deterministic`` every call is its own fixed batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.policies.denoising.policy import NET
from actors.policies.denoising.sampler import Painted, PaintJob, load_pipeline, paint
from actors.shared.gpu import freed
from actors.shared.lora import adapted_names, merged, scale_of
from actors.weights.buckets import CPU, Received, unpack
from actors.weights.inbox import LoadTimes, WeightInbox
from configs.methods import Adapter, Guard
from configs.schema import PolicyConfig
from rl.compat.torchvision import ensure_torchvision
from rl.denoising.step_selection import sampler_spec
from rl.errors import RolloutError, WeightSyncError
from rl.restoration.names import DEGRADED
from rl.spans import PoolMeter, span
from rl.types import PREVIOUS, Example, ImageReply, ImageRequest, Manifest, Metrics, Pixels

CANARY_SIZES_PX = (16, 32, 64)
"""Degraded photo, picture before, and picture painted by the canary."""
CANARY_NUM_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A job and the promise of its picture and the weight version that painted it."""

    job: PaintJob
    future: Future[tuple[Painted, int]] = field(default_factory=Future)


class ImageRolloutWorker(WeightInbox):
    """Paints pictures, takes new weights, proves them.

    Args:
        directory: Checkpoint in the diffusers layout.
        config: Of the policy; ``micro_batch_size`` bounds a batch.
        block_names: The chain's blocks in order; the canary claims to be the last.
        seed: Of the canary.
        deterministic: Paint every call as batches of its own, so that last digits repeat.
    """

    def __init__(
        self,
        *,
        directory: Path,
        config: PolicyConfig,
        block_names: Sequence[str],
        seed: int,
        deterministic: bool,
    ) -> None:
        self._directory = Path(directory)
        self._config = config
        self._block_names = tuple(block_names)
        self._seed = seed
        self._deterministic = deterministic
        self._version = 0
        self._pipeline: Any = None
        self._start: dict[str, Tensor] = {}
        """The starting weights that adapters change, kept once they do."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="image-rollout")
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._meter = PoolMeter(version=0)
        self._counts = {"num_batches": 0.0, "num_pictures": 0.0, "busy_s": 0.0}

    # ------------------------------------------------------------------------ life

    def setup(self) -> None:
        """Load the pipeline.

        Raises:
            RolloutError: If the directory holds no pipeline that loads.
        """
        ensure_torchvision()
        torch.set_num_threads(self._config.num_threads)
        if self._deterministic:
            torch.use_deterministic_algorithms(True)
        dtype = getattr(torch, self._config.dtype)
        try:
            self._pipeline = load_pipeline(self._directory, dtype, self._device)
        except (OSError, ValueError) as error:
            raise RolloutError(f"{self._directory} holds no picture policy: {error}") from error

    def close(self) -> None:
        """Let the running batch end and fail what still waits."""
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
        self._executor.shutdown(cancel_futures=True)
        for waiting in left:
            waiting.future.set_exception(RolloutError("the image rollout worker was closed"))

    def meters(self) -> list[PoolMeter]:
        """Return what the worker has in hand and has done, in pictures."""
        return [self._meter]

    def stats(self) -> Metrics:
        """Return batches, pictures and busy seconds so far, pictures waiting, and the weight version."""
        return {**self._counts, "num_waiting": float(len(self._waiting)), "version": float(self._version)}

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
        if self._deterministic:
            for batch in _batches(waiting, self._config.micro_batch_size):
                self._submit(batch)
        else:
            with self._lock:
                self._waiting.extend(waiting)
            for _ in waiting:  # each wakes the thread once; those that find nothing left do nothing
                self._submit(None)
        with self._meter.taking(len(requests)):
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
            return self._paint([item.job for item in taken]), self._version

        self._executor.submit(work).add_done_callback(lambda task: _settle(taken, task))

    def _take(self) -> list[_Waiting]:
        """Take the oldest waiting job and all that fit its batch, up to the largest batch."""
        with self._lock:
            if not self._waiting:
                return []
            key = self._waiting[0].job.key
            fitting = [item for item in self._waiting if item.job.key == key]
            taken = fitting[: self._config.micro_batch_size]
            chosen = {id(item) for item in taken}
            self._waiting = deque(item for item in self._waiting if id(item) not in chosen)
        return [item for item in taken if item.future.set_running_or_notify_cancel()]

    def _paint(self, jobs: Sequence[PaintJob]) -> list[Painted]:
        if not jobs:
            return []
        start = time.perf_counter()
        with span("paint", num_pictures=len(jobs), px=jobs[0].request.size_px, version=self._version):
            painted = self._painted(jobs)
        self._counts["num_batches"] += 1
        self._counts["num_pictures"] += len(jobs)
        self._counts["busy_s"] += time.perf_counter() - start
        return painted

    def _painted(self, jobs: Sequence[PaintJob]) -> list[Painted]:
        return paint(self._pipeline, jobs, keep_step_means=isinstance(self._config.surrogate, Guard))

    # ------------------------------------------------------------------------ weights

    async def load_weights(self, manifest: Manifest, *buckets: Received) -> LoadTimes:
        """Take a publication, after all that was asked for before it.

        Raises:
            WeightSyncError: If a bucket is damaged, or names or shapes are not the net's. Nothing has changed then.
        """
        return await asyncio.wrap_future(self._executor.submit(self._load, manifest, buckets))

    @span("load weights")
    def _load(self, manifest: Manifest, buckets: Sequence[Received]) -> LoadTimes:
        begin = time.perf_counter()
        new = dict(unpack(manifest, buckets))
        checked = time.perf_counter()
        own = {f"{NET}.{name}": parameter for name, parameter in self._pipeline.unet.named_parameters()}
        if isinstance(self._config.lora, Adapter):
            new = self._merged(own, new, scale_of(self._config.lora))
            own = {name: parameter for name, parameter in own.items() if name in new}
        _check_shapes(manifest, own, new)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(new[name])
        self._version = self._meter.version = manifest.version
        return LoadTimes(check_s=checked - begin, load_s=time.perf_counter() - checked)

    def _merged(
        self, own: Mapping[str, Tensor], adapters: Mapping[str, Tensor], scale: float
    ) -> dict[str, Tensor]:
        """Add adapters to the starting weights of their layers."""
        for name in adapted_names(adapters):
            if name not in self._start and name in own:
                self._start[name] = own[name].detach().clone()
        return dict(merged(self._start.items(), adapters, scale))

    async def sleep(self) -> int:
        """Leave the GPU to others, after all that was asked for before.

        Returns:
            Bytes of GPU memory given back; 0 on the CPU, where nothing is done.
        """
        job = self._executor.submit(freed, self._device, lambda: self._pipeline.to(CPU))
        return await asyncio.wrap_future(job)

    async def wake(self) -> None:
        """Come back to the GPU with the weights as they were."""
        await asyncio.wrap_future(self._executor.submit(self._pipeline.to, self._device))

    async def canary(self) -> Example:
        """Paint the same fixed picture by the configured sampler, with one before it, for the learner to score."""
        return await asyncio.wrap_future(self._executor.submit(self._canary))

    @span("canary")
    def _canary(self) -> Example:
        small, middle, large = CANARY_SIZES_PX
        rng = np.random.default_rng(self._seed)
        pictures = {
            name: rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            for name, size in ((DEGRADED, small), (PREVIOUS, middle))
        }
        request = ImageRequest(
            request_id="canary",
            block=self._block_names[-1],
            size_px=large,
            num_steps=CANARY_NUM_STEPS,
            sampler=sampler_spec(self._config),
            pictures={name: index for index, name in enumerate(pictures)},
            text="canary",
            seed=self._seed,
        )
        job = PaintJob(request=request, pictures=pictures)
        return Example(segment=self._painted([job])[0].segment, pictures=tuple(pictures.values()))


def _check_shapes(manifest: Manifest, own: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    what = f"policy {manifest.policy} version {manifest.version}"
    if own.keys() != new.keys():
        odd = sorted(own.keys() ^ new.keys())
        raise WeightSyncError(
            f"{what}: {len(odd)} tensors are on one side only, e.g. {odd[0]}; do learner and rollout worker have "
            "the same checkpoint?"
        )
    for name, parameter in own.items():
        if parameter.shape != new[name].shape:
            raise WeightSyncError(
                f"{what}: {name} is {list(new[name].shape)}, the net has {list(parameter.shape)}"
            )


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
