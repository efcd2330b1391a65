"""Loop of the text engine's thread: admits calls, decodes, runs tasks between them, answers.

Requests join while others decode. New weights are taken between two steps of the engine: what is being written goes
on with them, after a prefill of all that it has, and each token keeps the log-prob that it was sampled with. With
``deterministic`` every call is served alone, from empty caches: what it returns depends on nothing but itself; then,
and with guidance, new weights wait until the engine is idle and hold back what came after them.
"""

from __future__ import annotations

import itertools
import logging
import queue
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from actors.rollout.canary import Canary, make_canary
from actors.rollout.text_engine import TextEngine
from actors.rollout.vllm_requests import Written, make_reply
from actors.rollout.worker import RolloutSpec
from actors.weights.buckets import Received
from actors.weights.inbox import LoadTimes
from rl.errors import RolloutError, VlcotError
from rl.spans import PoolMeter, span
from rl.types import Manifest, Metrics, Pixels, TextReply, TextRequest

logger = logging.getLogger(__name__)

MOMENT_S = 0.003
"""How long an idle engine waits for another call after one: those of a group, or of all groups, come one by one."""


@dataclass(slots=True, kw_only=True)
class TextCall:
    """Requests that are answered together."""

    requests: Sequence[TextRequest]
    pictures: Sequence[Pixels]
    answer: Future[list[TextReply]] = field(default_factory=Future)
    replies: dict[int, TextReply] = field(default_factory=dict)


def canary_call(canary: Canary) -> TextCall:
    """Ask for the canary, beside whatever else is being written."""
    return TextCall(requests=[canary.request], pictures=canary.pictures)


@dataclass(slots=True, kw_only=True)
class EngineTask:
    """Something that is done between two steps of the engine."""

    run: Callable[[TextLoop], Any]
    is_idle: bool = True
    """Whether it waits until the engine is idle, where writing could go on beside it."""
    answer: Future[Any] = field(default_factory=Future)


class TextLoop:
    """One engine and what waits for it. Made and run by one thread; other threads only read ``counts``.

    Args:
        spec: Of the worker.
        incoming: What is asked for, in order; None ends the loop.
        meter: Of the worker; its version is that of the weights.
    """

    def __init__(
        self,
        spec: RolloutSpec,
        incoming: queue.SimpleQueue[TextCall | EngineTask | None],
        meter: PoolMeter,
    ) -> None:
        self._incoming, self._meter = incoming, meter
        self._deterministic = spec.deterministic
        self.canary = make_canary(spec)
        self.engine = TextEngine(spec)
        self._waiting: deque[TextCall | EngineTask | None] = deque()
        self._writing: dict[str, tuple[TextCall, int, int]] = {}
        """Call, place in it, and weight version at the beginning, by key."""
        self._keys = itertools.count()
        self.counts: Metrics = {"num_requests": 0.0, "num_tokens": 0.0, "num_cached_tokens": 0.0}

    @property
    def _version(self) -> int:
        return self._meter.version or 0

    def warm_up(self) -> None:
        """Write the canary once before anything is served, so that its prompt is in the engine's caches.

        Raises:
            RolloutError: If vLLM failed.
        """
        call = canary_call(self.canary)
        self._admit(call)
        while self._writing:
            self._advance()
        call.answer.result()

    def run(self) -> None:
        """Serve until None comes, then stop the engine."""
        while self._take_in():
            self._write()
        self.engine.close()

    def _write(self) -> None:
        """Decode until the engine is idle, or something has come that may join."""
        before = self.counts["num_tokens"]
        with span("write", num_blocks=len(self._writing), version=self._version) as record:
            self._advance()
            # What waits already may start when the engine is idle, and holds back what comes.
            while self._writing and (self._waiting or self._incoming.empty()):
                self._advance()
            record["num_tokens_of_finished_blocks"] = int(self.counts["num_tokens"] - before)

    def _take_in(self) -> bool:
        """Start what may start now; wait where there is nothing to do. False ends the loop."""
        while True:
            while not self._incoming.empty() or (not self._waiting and not self._writing):
                self._waiting.append(self._incoming.get())
                self._gather()
            if not self._waiting:
                return True
            first = self._waiting[0]
            if self._writing and self._is_alone(first):
                return True
            self._waiting.popleft()
            if first is None:
                return False
            if first.answer.set_running_or_notify_cancel():
                self._start(first)

    def _gather(self) -> None:
        """Wait a moment for what comes with the first call to an idle engine, to be read in the same step."""
        while not (self._deterministic or self._writing) and isinstance(self._waiting[-1], TextCall):
            try:
                self._waiting.append(self._incoming.get(timeout=MOMENT_S))
            except queue.Empty:
                return

    def _is_alone(self, what: TextCall | EngineTask | None) -> bool:
        """Whether something waits until all that is being written is done."""
        if self._deterministic or what is None:
            return True
        return isinstance(what, EngineTask) and (what.is_idle or not self.engine.can_begin_again)

    def _start(self, what: TextCall | EngineTask) -> None:
        try:
            if isinstance(what, EngineTask):
                what.answer.set_result(what.run(self))
            else:
                self._admit(what)
        except Exception as error:  # noqa: BLE001  # goes to the caller, whatever it is
            what.answer.set_exception(_failure("vLLM refused what was asked", error))

    def _admit(self, call: TextCall) -> None:
        if self._deterministic:
            self.engine.drop_caches()
        added: list[str] = []
        try:
            for index, request in enumerate(call.requests):
                key = str(next(self._keys))
                self.engine.add(key, request, [call.pictures[i] for i in request.pictures])
                self._writing[key] = (call, index, self._version)
                added.append(key)
        except Exception:
            self.engine.abort_all(added)
            for key in added:
                del self._writing[key]
            raise
        if not call.requests:
            call.answer.set_result([])

    def _advance(self) -> None:
        """Decode one token of everything, and answer the calls that are whole now."""
        try:
            finished = self.engine.step()
        except Exception as error:
            logger.exception("text rollout worker: vLLM failed")
            calls = {id(call): call for call, _, _ in self._writing.values()}
            self.engine.abort_all(list(self._writing))
            self._writing.clear()
            for call in calls.values():
                call.answer.set_exception(_failure("vLLM failed", error))
            return
        self._answer(finished)

    def _answer(self, finished: Mapping[str, Written]) -> None:
        for key, written in finished.items():
            call, index, version = self._writing.pop(key)
            reply = make_reply(call.requests[index], written, version)
            call.replies[index] = reply
            self.counts["num_requests"] += 1
            self.counts["num_tokens"] += len(reply.tokens)
            self.counts["num_cached_tokens"] += reply.num_cached
            if len(call.replies) == len(call.requests):
                call.answer.set_result([call.replies[i] for i in range(len(call.requests))])

    # ------------------------------------------------------------------------ tasks, between steps of the engine

    @span("load weights")
    def load(self, manifest: Manifest, buckets: Sequence[Received]) -> LoadTimes:
        """Load a publication and drop every cache; what is being written goes on with the new weights.

        Raises:
            WeightSyncError: If a bucket is damaged (nothing has changed then), or a cache was not dropped.
        """
        times = self.engine.load_weights(manifest, buckets)
        self.engine.drop_caches()
        self._meter.version = manifest.version
        return times


def _failure(what: str, error: Exception) -> Exception:
    """Return our own errors as they are, any other as a ``RolloutError`` that names it."""
    if isinstance(error, VlcotError):
        return error
    failure = RolloutError(f"{what}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
