"""Scores finished chains: one reward, one thread, micro-batches formed from whatever calls are waiting.

A plain class: the cluster layer spawns it and calls its methods from an event loop. It knows no Ray.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from configs.schema import RewardConfig
from rewards.base import Reward, describe_exception, evaluate
from rewards.load import load_reward
from rl.errors import ConfigError, RewardError
from rl.types import ChainView, Pixels, RewardRequest, Scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One waiting call."""

    views: Sequence[ChainView]
    answer: Future[Scores] = field(default_factory=Future)


class RewardWorker:
    """One reward of a run.

    ``score`` may be called many times at once; the scoring thread takes the calls that wait, up to
    ``batch_size`` chains, and scores them together. A scorer's error never leaves as an exception: it becomes
    ``valid=False`` with a reason. Where it hit a batch, the chains without a score are scored again one by
    one, so that a chain nobody can score does not cost the others.
    """

    def __init__(self, *, name: str, config: RewardConfig, deterministic: bool = False) -> None:
        """Note what to do; nothing is loaded.

        Args:
            name: Key of the reward.
            config: What to load, and ``batch_size``.
            deterministic: Score chain by chain, so that last digits do not depend on what else waits.
        """
        self._name = name
        self._config = config
        self._deterministic = deterministic
        self._reward: Reward | None = None
        self._closed = False
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"reward-{name}", daemon=True)
        self._busy_s = 0.0
        self._num_chains = 0
        self._num_batches = 0

    def setup(self) -> None:
        """Load the reward and start scoring.

        Raises:
            ConfigError: If it cannot be loaded as configured.
            RewardError: If its own ``setup`` fails; the message holds the author's exception.
        """
        reward = load_reward(self._name, self._config)
        try:
            reward.setup()
        except ConfigError as error:
            raise ConfigError(f"rewards.{self._name}.options: {error}") from error
        except RewardError:
            raise
        except Exception as error:  # the border to user code
            logger.exception("reward %s: setup failed", self._name)
            raise RewardError(f"rewards.{self._name}: setup failed: {describe_exception(error)}") from error
        self._reward = reward
        self._thread.start()

    async def score(self, requests: Sequence[RewardRequest], *pictures: Pixels) -> Scores:
        """Score chains.

        Args:
            requests: n chains; their pictures are indexes into ``pictures``.
            pictures: All pictures of the call.

        Returns:
            Scores over the n chains, in order.

        Raises:
            RewardError: If the worker was not set up, or was closed.
        """
        if self._closed or not self._thread.is_alive():
            raise RewardError(f"reward {self._name}: the worker is not running")
        call = _Call(views=[request.view(pictures) for request in requests])
        self._queue.put(call)
        return await asyncio.wrap_future(call.answer)

    def stats(self) -> dict[str, float]:
        """Return what was done so far: ``busy_s``, ``num_chains``, ``num_batches``."""
        return {
            "busy_s": self._busy_s,
            "num_chains": float(self._num_chains),
            "num_batches": float(self._num_batches),
        }

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._closed = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    # ------------------------------------------------------------------ the scoring thread

    def _work(self) -> None:
        running = True
        while running:
            taken, running = self._take()
            calls = [call for call in taken if call.answer.set_running_or_notify_cancel()]
            begin = time.perf_counter()
            if calls:
                self._serve(calls)
            self._busy_s += time.perf_counter() - begin

    def _take(self) -> tuple[list[_Call], bool]:
        """Wait for a call, take what else waits up to the batch size, and tell whether to go on."""
        calls: list[_Call] = []
        size = 0
        while size < self._config.batch_size:
            try:
                call = self._queue.get(block=not calls)
            except queue.Empty:
                break
            if call is None:
                return calls, False
            calls.append(call)
            size += len(call.views)
        return calls, True

    def _serve(self, calls: Sequence[_Call]) -> None:
        try:
            together = self._evaluate([view for call in calls for view in call.views])
            answers = _split(together, [len(call.views) for call in calls])
            for call, scores in zip(calls, answers, strict=True):
                call.answer.set_result(scores)
        except Exception as error:
            logger.exception("reward %s: scoring thread", self._name)
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(
                        RewardError(f"reward {self._name}: {describe_exception(error)}")
                    )

    def _evaluate(self, views: Sequence[ChainView]) -> Scores:
        size = 1 if self._deterministic else self._config.batch_size
        chunks = [views[start : start + size] for start in range(0, len(views), size)] or [views]
        self._num_chains += len(views)
        return _join([scores for chunk in chunks for scores in self._evaluate_chunk(chunk)])

    def _evaluate_chunk(self, views: Sequence[ChainView]) -> list[Scores]:
        """Score together, and each chain that got no score once more alone."""
        assert self._reward is not None  # the thread starts after it is set
        self._num_batches += 1
        scores = evaluate(self._reward, self._name, views)
        if len(views) < 2 or scores.valid.all():
            return [scores]
        parts = _split(scores, [1] * len(views))
        return [
            part if part.valid[0] else self._evaluate_chunk([view])[0]
            for view, part in zip(views, parts, strict=True)
        ]


def _join(parts: Sequence[Scores]) -> Scores:
    return Scores(
        name=parts[0].name,
        values=np.concatenate([part.values for part in parts]),
        valid=np.concatenate([part.valid for part in parts]),
        missing=np.concatenate([part.missing for part in parts]),
        reasons=tuple(reason for part in parts for reason in part.reasons),
    )


def _split(scores: Scores, sizes: Sequence[int]) -> list[Scores]:
    stops = list(itertools.accumulate(sizes))
    return [
        Scores(
            name=scores.name,
            values=scores.values[stop - size : stop],
            valid=scores.valid[stop - size : stop],
            missing=scores.missing[stop - size : stop],
            reasons=scores.reasons[stop - size : stop],
        )
        for stop, size in zip(stops, sizes, strict=True)
    ]
