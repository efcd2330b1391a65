"""The text rollout worker: writes the text blocks of many chains with one vLLM engine.

A plain class; the cluster layer spawns it. One thread owns the engine. Requests join while others decode;
errands (new weights, the canary) wait until the engine is idle and hold back what came after them, so weights
change between blocks only. With ``deterministic`` every call is served alone, from empty caches: what it
returns depends on nothing but itself.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.policies.token.tokenizer import TextVocabulary, load_vocabulary
from actors.rollout.text_engine import TextEngine, make_reply
from actors.shared.gpu import freed
from actors.weights.buckets import Received
from actors.weights.inbox import LoadTimes, WeightInbox
from configs.schema import PolicyConfig
from rl.errors import RolloutError, VlcotError
from rl.restoration.names import REQUEST
from rl.spans import PoolMeter, span
from rl.types import (
    Example,
    Manifest,
    Metrics,
    Pixels,
    TextReply,
    TextRequest,
    TextSampling,
    TokenStream,
)

logger = logging.getLogger(__name__)

CANARY_TOKENS = 16
"""Tokens the canary samples."""
CANARY_PX = (16, 24)
"""Edges of the canary's two pictures; small ones are enlarged by the image processor."""


@dataclass(slots=True, kw_only=True)
class _Call:
    """Requests that are answered together."""

    requests: Sequence[TextRequest]
    pictures: Sequence[Pixels]
    answer: Future[list[TextReply]] = field(default_factory=Future)
    replies: dict[int, TextReply] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Errand:
    """Something that is done while the engine is idle."""

    run: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)


class TextRolloutWorker(WeightInbox):
    """Writes text, takes new weights, proves them.

    Args:
        directory: Checkpoint in the Hugging Face layout.
        config: Of the policy.
        block_names: The chain's blocks in order.
        seed: Of the canary.
        deterministic: Serve calls one by one from empty caches, so that last digits repeat.
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
        self._incoming: queue.SimpleQueue[_Call | _Errand | None] = queue.SimpleQueue()
        self._waiting: deque[_Call | _Errand | None] = deque()
        self._writing: dict[str, tuple[_Call, int]] = {}
        self._keys = itertools.count()
        self._thread = threading.Thread(target=self._work, name="text-rollout", daemon=True)
        self._ready: Future[None] = Future()
        self._meter = PoolMeter(version=0)
        self._counts = {"num_requests": 0.0, "num_tokens": 0.0, "num_cached_tokens": 0.0, "busy_s": 0.0}

    # ------------------------------------------------------------------------ life

    def setup(self) -> None:
        """Start the engine and put the canary's prompt into its caches.

        Raises:
            ConfigError: If a tag of the chain is not one token of the checkpoint's.
            RolloutError: If vLLM cannot serve the checkpoint.
        """
        self._vocabulary: TextVocabulary = load_vocabulary(self._directory, self._block_names)
        self._thread.start()
        self._ready.result()

    def close(self) -> None:
        """Finish what waits, then stop the engine."""
        self._incoming.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def meters(self) -> list[PoolMeter]:
        """Return what the worker has in hand and has done, in text blocks."""
        return [self._meter]

    def stats(self) -> Metrics:
        """Return requests, sampled and cached tokens and busy seconds so far, and the weight version."""
        return {**self._counts, "version": float(self._version)}

    # ------------------------------------------------------------------------ what callers ask for

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
        with self._meter.taking(len(requests)):
            replies: list[TextReply] = await self._ask(_Call(requests=requests, pictures=pictures))
        return replies

    async def load_weights(self, manifest: Manifest, *buckets: Received) -> LoadTimes:
        """Take a publication, after all that was asked for before it, and drop every cache.

        Raises:
            WeightSyncError: If a bucket is damaged (nothing has changed then), or a cache was not dropped.
        """
        times: LoadTimes = await self._ask(_Errand(run=lambda: self._load(manifest, buckets)))
        return times

    async def sleep(self) -> int:
        """Leave the GPU to others, after all that was asked for before.

        Returns:
            Bytes of GPU memory given back; 0 on the CPU, where nothing is done.
        """
        num_bytes: int = await self._ask(_Errand(run=lambda: freed(self._device, self._engine.sleep)))
        return num_bytes

    async def wake(self) -> None:
        """Come back to the GPU with the weights as they were."""
        if self._device.type == "cuda":
            await self._ask(_Errand(run=self._engine.wake))

    async def canary(self) -> Example:
        """Write on after a fixed prompt with two pictures, for the learner to score.

        The prompt fills more than a cache block and was cached before the last load, so a cache that still
        holds results of older weights shows.
        """
        example: Example = await self._ask(_Errand(run=self._canary))
        return example

    async def _ask(self, what: _Call | _Errand) -> Any:
        if not self._thread.is_alive():
            raise RolloutError(f"{self._directory}: the text rollout worker is not running")
        self._incoming.put(what)
        return await asyncio.wrap_future(what.answer)

    # ------------------------------------------------------------------------ the engine's thread

    def _work(self) -> None:
        try:
            self._engine = TextEngine(
                self._directory, self._config, max_pictures=len(self._block_names) + 1, seed=self._seed
            )
            self._canary()
        except Exception as error:
            logger.exception("text rollout worker: the engine did not start")
            failure = (
                error
                if isinstance(error, VlcotError)
                else RolloutError(f"{self._directory}: vLLM cannot serve it: {type(error).__name__}: {error}")
            )
            failure.__cause__ = error
            self._ready.set_exception(failure)
            return
        self._ready.set_result(None)
        while self._take_in():
            begin = time.perf_counter()
            self._write()
            self._counts["busy_s"] += time.perf_counter() - begin
        self._engine.close()

    def _write(self) -> None:
        """Decode until the engine is idle, or something has come that may join."""
        before = self._counts["num_tokens"]
        with span("write", num_blocks=len(self._writing), version=self._version) as said:
            self._advance()
            # What waits already may start when the engine is idle, and holds back what comes.
            while self._writing and (self._waiting or self._incoming.empty()):
                self._advance()
            said["num_tokens_of_finished_blocks"] = int(self._counts["num_tokens"] - before)

    def _take_in(self) -> bool:
        """Start what may start now; wait where there is nothing to do. False ends the thread."""
        while True:
            while not self._incoming.empty() or (not self._waiting and not self._writing):
                self._waiting.append(self._incoming.get())
            if not self._waiting:
                return True
            first = self._waiting[0]
            alone = self._deterministic or not isinstance(first, _Call)
            if alone and self._writing:
                return True
            self._waiting.popleft()
            if first is None:
                return False
            if first.answer.set_running_or_notify_cancel():
                self._start(first)

    def _start(self, what: _Call | _Errand) -> None:
        try:
            if isinstance(what, _Errand):
                what.answer.set_result(what.run())
            else:
                self._admit(what)
        except Exception as error:  # noqa: BLE001  # goes to the caller, whatever it is
            what.answer.set_exception(_failure("vLLM refused what was asked", error))

    def _admit(self, call: _Call) -> None:
        if self._deterministic:
            self._engine.drop_caches()
        added: list[str] = []
        try:
            for index, request in enumerate(call.requests):
                key = str(next(self._keys))
                self._engine.add(key, request, [call.pictures[i] for i in request.pictures])
                self._writing[key] = (call, index)
                added.append(key)
        except Exception:
            self._engine.abort_all(added)
            for key in added:
                del self._writing[key]
            raise
        if not call.requests:
            call.answer.set_result([])

    def _advance(self) -> None:
        """Decode one token of everything, and answer the calls that are whole now."""
        try:
            finished = self._engine.step()
        except Exception as error:
            logger.exception("text rollout worker: vLLM failed")
            calls = {id(call): call for call, _ in self._writing.values()}
            self._engine.abort_all(list(self._writing))
            self._writing.clear()
            for call in calls.values():
                call.answer.set_exception(_failure("vLLM failed", error))
            return
        for key, output in finished.items():
            call, index = self._writing.pop(key)
            reply = make_reply(call.requests[index], output, self._version)
            call.replies[index] = reply
            self._counts["num_requests"] += 1
            self._counts["num_tokens"] += len(reply.tokens)
            self._counts["num_cached_tokens"] += reply.num_cached
            if len(call.replies) == len(call.requests):
                call.answer.set_result([call.replies[i] for i in range(len(call.requests))])

    @span("load weights")
    def _load(self, manifest: Manifest, buckets: Sequence[Received]) -> LoadTimes:
        times = self._engine.load_weights(manifest, buckets)
        self._drop_caches()
        self._version = self._meter.version = manifest.version
        return times

    def _drop_caches(self) -> None:
        self._engine.drop_caches()

    # ------------------------------------------------------------------------ canary

    @span("canary")
    def _canary(self) -> Example:
        request, pictures = self._canary_request()
        self._engine.add("canary", request, pictures)
        outputs: dict[str, Any] = {}
        try:
            while not self._engine.is_idle:
                outputs |= self._engine.step()
        except Exception:
            self._engine.abort_all(["canary"])
            raise
        reply = make_reply(request, outputs["canary"], self._version)
        self._counts["canary_cached_tokens"] = float(reply.num_cached)
        length, num = len(request.tokens), len(reply.tokens)
        written = np.arange(length + num) >= length
        logprobs = np.zeros(length + num, dtype=np.float32)
        logprobs[written] = reply.logprobs
        stream = TokenStream(
            tokens=np.concatenate([request.tokens, reply.tokens]),
            pictures=("first", "second"),
            action_mask=written,
            behaviour_logprobs=logprobs,
            block_of=np.where(written, 0, -1).astype(np.int8),
            sampling=request.sampling,
        )
        return Example(segment=stream, pictures=pictures)

    def _canary_request(self) -> tuple[TextRequest, tuple[Pixels, Pixels]]:
        vocabulary = self._vocabulary
        rng = np.random.default_rng(self._seed)
        first, second = (rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8) for edge in CANARY_PX)
        prompt = vocabulary.encode((REQUEST,))
        request = TextRequest(
            request_id="canary",
            tokens=np.asarray([*prompt, *prompt], dtype=np.int32),
            pictures=(0, 1),
            max_tokens=CANARY_TOKENS,
            stop_ids=(),
            sampling=TextSampling(
                temperature=self._config.temperature,
                forbidden_ids=vocabulary.forbidden_ids,
                guidance=self._config.guidance_scale,
            ),
            seed=self._seed,
        )
        return request, (first, second)


def _failure(what: str, error: Exception) -> Exception:
    """Return our own errors as they are, any other as a ``RolloutError`` that names it."""
    if isinstance(error, VlcotError):
        return error
    failure = RolloutError(f"{what}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
