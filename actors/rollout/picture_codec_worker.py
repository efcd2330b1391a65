"""Picture codec worker: pictures to codes and back for chain runners, in a thread of its own.

A call is a batch: it waits for the calls before it and is not joined with others, so its answer depends on nothing
else. A codec has no weights that a run trains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from actors.policies.unified.codec import PictureCodec, load_codec
from rl.compat.torchvision import ensure_torchvision
from rl.spans import PoolMeter, span
from rl.types import Ints, Metrics, Pixels

T = TypeVar("T")


class PictureCodecWorker:
    """Encodes and decodes. A plain class: the cluster layer spawns it and awaits its methods.

    Args:
        directory: Checkpoint of the policy whose codec it is.
        num_threads: Of torch.
        device: Where it computes, ``cpu`` or ``cuda``.
    """

    def __init__(self, directory: Path, *, num_threads: int = 1, device: str = "cpu") -> None:
        self._directory, self._num_threads, self._device = directory, num_threads, device
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="picture-codec")
        self._started: Future[PictureCodec] = Future()
        self._counts = {"num_encoded": 0.0, "num_decoded": 0.0}
        self.meter = PoolMeter()
        """Pictures in hand and done."""

    def setup(self) -> None:
        """Load the codec.

        Raises:
            ConfigError: If the checkpoint has none that can be used.
        """
        ensure_torchvision()
        torch.set_num_threads(self._num_threads)
        self._started.set_result(load_codec(self._directory, torch.device(self._device)))

    @property
    def codec(self) -> PictureCodec:
        """The codec; there after ``setup``."""
        return self._started.result(timeout=0)

    def close(self) -> None:
        """Let what was asked for end; it takes milliseconds."""
        self._executor.shutdown()

    def stats(self) -> Metrics:
        """Return pictures encoded and decoded so far."""
        return dict(self._counts)

    def meters(self) -> list[PoolMeter]:
        """Return what the worker has in hand and has done."""
        return [self.meter]

    async def encode(self, *pictures: Pixels) -> list[Ints]:
        """Turn pictures of any sizes into codes.

        Returns:
            ``int32[h, w]`` for each; small, so that they travel as one object.

        Raises:
            ConfigError: If an edge is not a multiple of the codec's stride.
        """
        codes = await self._in_thread("encode", len(pictures), lambda: self.codec.encode_batch(pictures))
        self._counts["num_encoded"] += len(pictures)
        return codes

    async def decode(self, codes: Sequence[Ints]) -> tuple[Any, ...]:
        """Turn grids of codes of any sizes into pictures.

        Returns:
            The list of their heights and widths, pixels, then each picture: flat, so that each can be an object of its
            own in a store.

        Raises:
            ValueError: If something is no code.
        """
        pictures = await self._in_thread("decode", len(codes), lambda: self.codec.decode_batch(codes))
        self._counts["num_decoded"] += len(codes)
        return [picture.shape[:2] for picture in pictures], *pictures

    async def _in_thread(self, name: str, num: int, work: Callable[[], T]) -> T:
        def done() -> T:
            with span(name, num_pictures=num):
                return work()

        with self.meter.taking(num):
            return await asyncio.wrap_future(self._executor.submit(done))
