"""Reward worker: scores micro-batches of whatever calls wait, in a thread, or a function in a process of its own.

A plain class: the cluster layer spawns it and calls its methods from an event loop. It knows no Ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from actors.rewards.score_cache import ScoreCache, content_key
from actors.rewards.scoring_process import ScoringProcess
from configs.errors import prefixed
from configs.schema import RewardConfig
from rewards.base import Need, Reward, describe_exception, evaluate
from rewards.core.asynchrony import own_event_loop
from rewards.core.tracebacks import RAISED
from rewards.load import load_reward
from rewards.plain.base import PlainReward
from rl.advantage.scores import join, split
from rl.errors import ConfigError, RewardError
from rl.spans import span
from rl.types import ChainView, FinishedChain, Pixels, Scores

logger = logging.getLogger(__name__)

Shape = tuple[int, ...] | None
"""Of a picture; None where the reward looks at none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What a worker has done so far."""

    busy_s: float = 0.0
    """Scoring."""
    wait_s: float = 0.0
    """What calls waited for it, added up."""
    num_chains: int = 0
    """Scored or found in the cache."""
    num_batches: int = 0
    """Calls of the reward's own code."""
    num_cached: int = 0
    """Chains found in the cache."""
    tracebacks: Mapping[str, str] = field(default_factory=dict)
    """Of what the reward raised, by fault (``rewards.core.tracebacks.fault_of``)."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Call:
    """One waiting call."""

    views: Sequence[ChainView]
    shape: Shape
    """Of its first picture: calls of one shape are batched."""
    answer: Future[Scores] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)
    alone: bool = False
    """It had its turn in a batch and is scored once more, by itself."""

    def start(self) -> bool:
        """Whether anyone still wants the answer; from here on it cannot be cancelled."""
        return self.alone or self.answer.set_running_or_notify_cancel()


class RewardWorker:
    """One reward of a run.

    ``score`` may be called many times at once. An idle worker starts on what is there. While it is busy, calls
    gather; then those with pictures as large as the oldest's, up to ``batch_size`` chains, are scored together.
    Nothing ever waits for a batch to fill.

    A scorer's error never leaves as an exception: it becomes ``valid=False`` with a reason. Where it hit a
    batch, the chains without a score are scored again one by one, so that a chain nobody can score does not
    cost the others.
    """

    def __init__(self, *, name: str, config: RewardConfig, deterministic: bool = False) -> None:
        """Note what to do; nothing is loaded.

        Args:
            name: Key of the reward.
            config: What to load, ``batch_size``, and whether to ``cache``.
            deterministic: Score chain by chain, so that last digits do not depend on what else waits.
        """
        self._name = name
        self._config = config
        self._batch_size = 1 if deterministic else config.batch_size
        self._reward: Reward | None = None
        self._process: ScoringProcess | None = None
        self._tracebacks: Mapping[str, str] = {}
        self._cache = ScoreCache() if config.cache else None
        self._closed = False
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"reward-{name}", daemon=True)
        self._busy_s = self._wait_s = 0.0
        self._num_chains = self._num_batches = self._num_cached = 0

    def setup(self) -> None:
        """Load the reward and start scoring.

        Raises:
            ConfigError: If it cannot be loaded as configured.
            RewardError: If its own ``setup`` fails; the message holds the author's exception.
        """
        reward = load_reward(self._name, self._config)
        try:
            with prefixed(f"rewards.{self._name}.options: "):
                if isinstance(reward, PlainReward):
                    self._process = ScoringProcess(self._name, self._config)
                    self._process.setup()
                else:
                    reward.setup()
        except (ConfigError, RewardError):
            raise
        except (Exception, SystemExit) as error:  # the border to user code
            logger.exception("reward %s: setup failed", self._name)
            raise RewardError(f"rewards.{self._name}: setup failed: {describe_exception(error)}") from error
        self._reward = reward
        self._thread.start()

    async def score(self, chains: Sequence[FinishedChain[int]], *pictures: Pixels) -> Scores:
        """Score chains.

        Args:
            chains: n of them; their pictures are indexes into ``pictures``.
            pictures: All pictures of the call.

        Returns:
            Scores over the n chains, in order.

        Raises:
            RewardError: If the worker was not set up, or was closed, or the reward ended its thread.
        """
        if self._closed or not self._thread.is_alive():
            raise RewardError(f"reward {self._name}: the worker is not running")
        views = [chain.with_pictures(pictures.__getitem__) for chain in chains]
        call = _Call(views=views, shape=self._shape(views[0]) if views else None)
        self._queue.put(call)
        return await asyncio.wrap_future(call.answer)

    def report(self) -> WorkerReport:
        """Return what was done so far, and the first traceback of each fault of the reward."""
        return WorkerReport(
            busy_s=self._busy_s,
            wait_s=self._wait_s,
            num_chains=self._num_chains,
            num_batches=self._num_batches,
            num_cached=self._num_cached,
            tracebacks={**RAISED.texts(), **self._tracebacks},
        )

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._closed = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if self._process is not None:
            self._process.close()

    # ------------------------------------------------------------------ the scoring thread

    def _work(self) -> None:
        waiting: list[_Call] = []
        batch: list[_Call] = []
        is_open = True
        try:
            with own_event_loop():
                while is_open or waiting:
                    is_open = is_open and self._receive(waiting, block=not waiting)
                    batch = [call for call in self._take(waiting) if call.start()]
                    if batch:
                        waiting[:0] = self._serve(batch)
        except BaseException as error:  # an author's sys.exit() is one; calls must not wait for this thread
            logger.exception("reward %s: the scoring thread ended", self._name)
            self._closed = True
            self._receive(waiting, block=False)
            self._refuse([*batch, *(call for call in waiting if call.start())], error)

    def _receive(self, waiting: list[_Call], *, block: bool) -> bool:
        """Move what came to ``waiting``, sleeping for the first where told to; False where no more will come."""
        while True:
            try:
                call = self._queue.get(block=block)
            except queue.Empty:
                return True
            if call is None:
                return False
            waiting.append(call)
            block = False

    def _take(self, waiting: list[_Call]) -> list[_Call]:
        """Take the next batch out of ``waiting``: the oldest call, and others of its shape that fit beside it."""
        batch: list[_Call] = []
        size = 0
        for call in waiting:
            if batch and (call.alone or batch[0].alone or call.shape != batch[0].shape):
                continue
            if batch and size + len(call.views) > self._batch_size:
                break
            batch.append(call)
            size += len(call.views)
            if size >= self._batch_size:
                break
        batched = set(map(id, batch))
        waiting[:] = [call for call in waiting if id(call) not in batched]
        return batch

    def _serve(self, batch: Sequence[_Call]) -> list[_Call]:
        """Answer the calls of a batch; return those whose chains are to be scored alone."""
        begin = time.perf_counter()
        self._wait_s += sum(begin - call.since for call in batch if not call.alone)
        try:
            views = [view for call in batch for view in call.views]
            with span("score", num_chains=len(views), first=views[0].chain_id if views else ""):
                together = self._evaluate(views, retry=len(batch) == 1)
        except Exception as error:
            logger.exception("reward %s: scoring thread", self._name)
            self._refuse(batch, error)
            return []
        finally:
            self._busy_s += time.perf_counter() - begin
        again = []
        for call, scores in zip(batch, split(together, [len(call.views) for call in batch]), strict=True):
            if scores.valid.all() or len(batch) == 1:
                self._num_chains += len(call.views)
                call.answer.set_result(scores)
            else:
                call.alone = True
                again.append(call)
        return again

    def _refuse(self, calls: Sequence[_Call], error: BaseException) -> None:
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(RewardError(f"reward {self._name}: {describe_exception(error)}"))

    def _evaluate(self, views: Sequence[ChainView], *, retry: bool) -> Scores:
        """Score chains, those of one shape together; ``retry``: what failed together once more alone."""
        cache = self._cache
        keys = [b"" if cache is None else content_key(view) for view in views]
        known = [None if cache is None else cache.get(key) for key in keys]
        unknown = [index for index, scores in enumerate(known) if scores is None]
        self._num_cached += len(views) - len(unknown)
        for indexes in self._chunks(views, unknown):
            parts = self._ask([views[i] for i in indexes], retry=retry)
            for index, scores in zip(indexes, parts, strict=True):
                known[index] = scores
                if cache is not None:
                    cache.put(keys[index], scores)
        return join(self._name, [scores for scores in known if scores is not None])

    def _chunks(self, views: Sequence[ChainView], indexes: Sequence[int]) -> list[list[int]]:
        """Group chains by the shape of what is judged, at most ``batch_size`` together."""
        by_shape: dict[Shape, list[int]] = {}
        for index in indexes:
            by_shape.setdefault(self._shape(views[index]), []).append(index)
        size = self._batch_size
        return [rows[i : i + size] for rows in by_shape.values() for i in range(0, len(rows), size)]

    def _ask(self, views: Sequence[ChainView], *, retry: bool) -> list[Scores]:
        assert self._reward is not None  # the thread starts after it is set
        self._num_batches += 1
        parts = split(self._scored(views), [1] * len(views))
        if not retry or len(views) < 2:
            return parts
        return [
            part if part.valid[0] else self._ask([view], retry=False)[0]
            for view, part in zip(views, parts, strict=True)
        ]

    def _scored(self, views: Sequence[ChainView]) -> Scores:
        assert self._reward is not None
        if self._process is None:
            return evaluate(self._reward, self._name, views)
        try:
            scores, self._tracebacks = self._process.evaluate(views)
        except ChildProcessError:
            # As where a reward ends its worker itself: the pool has another one do this again, chain by chain.
            logger.exception("reward %s", self._name)
            os._exit(1)
        return scores

    def _shape(self, view: ChainView) -> Shape:
        """What a chain must share with others of its batch; None where it does not matter."""
        assert self._reward is not None
        picture = view.final_picture
        return picture.shape if picture is not None and Need.FINAL_PICTURE in self._reward.needs else None
