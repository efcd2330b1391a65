"""Text rollout worker: the text blocks of many chains, written by one vLLM engine in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from actors.rollout.text_loop import EngineTask, TextCall, TextLoop, canary_call
from actors.rollout.worker import RolloutSpec, RolloutWorker
from actors.shared.gpu import freed
from actors.weights.buckets import Received
from actors.weights.inbox import LoadTimes
from rl.errors import RolloutError, VlcotError
from rl.spans import span
from rl.types import Example, Manifest, Metrics, Pixels, TextReply, TextRequest

logger = logging.getLogger(__name__)


class TextRolloutWorker(RolloutWorker):
    """Writes text. Everything that touches the engine is done by its thread (``TextLoop``)."""

    def __init__(self, spec: RolloutSpec) -> None:
        super().__init__(spec)
        self._incoming: queue.SimpleQueue[TextCall | EngineTask | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="text-rollout", daemon=True)
        self._started: Future[TextLoop] = Future()
        self._canary_cached_tokens = 0.0

    def setup(self) -> None:
        """Start the engine and put the canary's prompt into its caches.

        Raises:
            ConfigError: If a tag of the chain is not one token of the checkpoint's.
            RolloutError: If vLLM cannot serve the checkpoint.
        """
        self._thread.start()
        self._started.result()

    def _work(self) -> None:
        try:
            loop = TextLoop(self.spec, self._incoming, self.meter)
            loop.warm_up()
        except Exception as error:
            logger.exception("text rollout worker: the engine did not start")
            directory = self.spec.directory
            failure = (
                error
                if isinstance(error, VlcotError)
                else RolloutError(f"{directory}: vLLM cannot serve it: {type(error).__name__}: {error}")
            )
            failure.__cause__ = error
            self._started.set_exception(failure)
            return
        self._started.set_result(loop)
        loop.run()

    @property
    def loop(self) -> TextLoop:
        """What the engine's thread runs; there after ``setup``."""
        return self._started.result(timeout=0)

    def close(self) -> None:
        """Finish what waits, then stop the engine."""
        self._incoming.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def stats(self) -> Metrics:
        """Return requests, sampled and cached tokens so far, those of the last canary, and the weight version."""
        return {
            **self.loop.counts,
            "canary_cached_tokens": self._canary_cached_tokens,
            "version": float(self.version),
        }

    async def generate(self, requests: Sequence[TextRequest], *pictures: Pixels) -> list[TextReply]:
        """Write one text block for each request.

        Args:
            requests: Their picture indexes point into ``pictures``.
            pictures: Of all requests.

        Returns:
            Replies in the order of ``requests``.

        Raises:
            RolloutError: If vLLM refused a request, or failed.
        """
        with self.meter.taking(len(requests)):
            replies: list[TextReply] = await self._ask(TextCall(requests=requests, pictures=pictures))
        return replies

    async def load_weights(self, manifest: Manifest, *buckets: Received) -> LoadTimes:
        """Take a publication between two steps of the engine, and drop every cache (``TextLoop``).

        Raises:
            WeightSyncError: If a bucket is damaged (nothing has changed then), or a cache was not dropped.
        """
        times: LoadTimes = await self._ask(
            EngineTask(run=lambda loop: loop.load(manifest, buckets), is_idle=False)
        )
        return times

    async def sleep(self) -> int:
        """Leave the GPU to others, after all that was asked for before.

        Returns:
            Bytes of GPU memory given back; 0 on the CPU, where nothing is done.
        """
        task = EngineTask(run=lambda loop: freed(self.device, loop.engine.sleep))
        num_bytes: int = await self._ask(task)
        return num_bytes

    async def wake(self) -> None:
        """Come back to the GPU with the weights as they were."""
        if self.device.type == "cuda":
            await self._ask(EngineTask(run=lambda loop: loop.engine.wake()))

    async def canary(self) -> Example:
        """Write on after a fixed prompt with two pictures, for the learner to score.

        The prompt fills more than a cache block and was cached before the last load, so a cache that still
        holds results of older weights shows.
        """
        canary = self.loop.canary
        with span("canary", lane="canary", overlaps=True):
            (reply,) = await self._ask(canary_call(canary))
        self._canary_cached_tokens = float(reply.num_cached)
        return canary.example(reply)

    async def _ask(self, what: TextCall | EngineTask) -> Any:
        if not self._thread.is_alive():
            raise RolloutError(f"{self.spec.directory}: the text rollout worker is not running")
        self._incoming.put(what)
        return await asyncio.wrap_future(what.answer)
