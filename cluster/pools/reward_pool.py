"""Pool of one reward's actors: dispatch, timeouts, replacement of those that hang or die.

Chains that come at once are sent at once, in one call. Lives on the event loop of the scoring actor
(``cluster.pools.scoring``). Every chain given to ``score`` is answered exactly once, within bounded time: with its
scores, or as invalid with a reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from actors.rewards.worker import WorkerReport
from cluster.runtime.calls import Call, Worker, answer
from cluster.runtime.spawn import kill
from configs.derive import REWARD_ATTEMPTS
from rl.advantage.scores import failed, split
from rl.errors import LostDataError, RewardError, WorkerLostError
from rl.spans import PoolMeter
from rl.types import FinishedChain, Scores, indexed

logger = logging.getLogger(__name__)

STARTS = 3
"""How often the start of a replacement is tried."""
HOPELESS = 2
"""Chains given up one after another, without an answer in between, after which those that wait are given up too:
it is the reward, not the chains."""
REPORT_S = 2.0
"""Longest wait for a replica's report; one that is stuck has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounts:
    """What a pool did since it was asked last."""

    num_chains: int = 0
    num_replaced: int = 0
    """Replicas that hung or died."""
    num_redone: int = 0
    """Calls that were sent to another replica."""
    num_cached: int = 0
    busy_s: float = 0.0
    """Work of all replicas."""
    wait_s: float = 0.0
    """From a chain's arrival to the start of its scoring, added up over chains."""

    def __add__(self, other: PoolCounts) -> PoolCounts:
        """Add up."""
        return PoolCounts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(slots=True, eq=False)
class _PendingChain:
    """One chain on its way to its scores."""

    record: FinishedChain[Any]
    """Its pictures are references."""
    answer: asyncio.Future[Scores]
    since: float
    attempts: int = 0
    """Times it was with a replica that did not answer. From the first on it is sent alone, so that a chain that
    kills replicas is told from those that happened to be beside it."""


@dataclass(slots=True, eq=False)
class _Replica:
    """One actor of the pool."""

    worker: Worker
    place: int
    """Which of the pool's places it has; a replacement takes it over."""
    calls: dict[asyncio.Task[None], Sequence[_PendingChain]] = field(default_factory=dict)
    """What it was sent and has not answered, by who waits for it."""
    heard: float = 0.0
    """When it last answered, or was sent something while idle."""
    report: WorkerReport = field(default_factory=WorkerReport)
    """Its last report."""

    @property
    def chains(self) -> list[_PendingChain]:
        """All chains that it has."""
        return [chain for chains in self.calls.values() for chain in chains]

    def take(self, waiting: deque[_PendingChain], *, room: int, most: int) -> list[_PendingChain]:
        """Take what it may be sent next out of ``waiting``: never a suspect beside others, or more than has room."""
        chains = self.chains
        if waiting[0].attempts or any(chain.attempts for chain in chains):
            return [] if chains else [waiting.popleft()]
        taken: list[_PendingChain] = []
        while waiting and not waiting[0].attempts and len(taken) < min(most, room - len(chains)):
            taken.append(waiting.popleft())
        return taken


class RewardPool:
    """All replicas of one reward."""

    def __init__(
        self, name: str, *, num_replicas: int, batch_size: int, room: int, deadline_s: float, setup_s: float,
        start: Callable[[str, int], Worker],
    ) -> None:  # fmt: skip
        """Note what to do; nothing is started.

        Args:
            name: Key of the reward.
            num_replicas: Actors.
            batch_size: Most chains in one call.
            room: Most chains an actor is sent ahead; the others wait here.
            deadline_s: Longest an actor that has work may be silent before it is replaced.
            setup_s: Longest its ``setup`` may take.
            start: Starts an actor of the given name in the given place, ``0 .. num_replicas - 1``.
        """
        self._name, self._num_replicas = name, num_replicas
        self._batch_size, self._room = batch_size, room
        self._deadline_s, self._setup_s, self._start = deadline_s, setup_s, start
        self._replicas: list[_Replica] = []
        self._waiting: deque[_PendingChain] = deque()
        self._is_due = False
        """Whether what waits is looked at soon."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_started = 0
        self._num_starting = 0
        self._num_given_up = 0
        self._broken = "no replica was started"
        self._counts = PoolCounts()
        self.meter = PoolMeter(f"reward-{name}")
        self.tracebacks: dict[str, str] = {}
        """By fault, of all replicas that ever were."""

    async def setup(self) -> None:
        """Start all replicas and wait until they are ready; errors are the first replica's."""
        self._replicas = [_Replica(self._spawn(place), place) for place in range(self._num_replicas)]
        calls = [replica.worker.call("setup") for replica in self._replicas]
        await asyncio.gather(*(answer(call, deadline_s=self._setup_s) for call in calls))
        self._keep(self._watch())

    async def score(self, chain: FinishedChain[Any]) -> Scores:
        """Score one chain; a scorer's failure, and a replica's, is ``valid=False`` with a reason.

        Args:
            chain: Its pictures are references; they are not fetched here.
        """
        loop = asyncio.get_running_loop()
        pending = _PendingChain(chain, loop.create_future(), since=time.perf_counter())
        self._waiting.append(pending)
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._dispatch)
        with self.meter.taking(1):
            return await pending.answer

    async def counts(self) -> PoolCounts:
        """Return what was done since the last call, and collect the replicas' tracebacks."""
        replicas = list(self._replicas)
        for replica, report in zip(replicas, await asyncio.gather(*map(self._ask, replicas)), strict=True):
            before, replica.report = replica.report, report
            self._counts += PoolCounts(
                num_cached=report.num_cached - before.num_cached,
                busy_s=report.busy_s - before.busy_s,
                wait_s=report.wait_s - before.wait_s,
            )
            self.tracebacks |= report.tracebacks
        counts, self._counts = self._counts, PoolCounts()
        return counts

    # ------------------------------------------------------------------ dispatch

    def _dispatch(self) -> None:
        """Send what waits, oldest first, to the replicas with the least to do; keep the rest."""
        self._is_due = False
        if not self._replicas and not self._num_starting:
            self._give_up_all(self._broken)
        share = -(-len(self._waiting) // max(len(self._replicas), 1))
        while self._waiting and self._replicas:
            replica = min(self._replicas, key=lambda r: len(r.chains))
            chains = replica.take(self._waiting, room=self._room, most=min(share, self._batch_size))
            if not chains:
                return
            self._send(replica, chains)

    def _send(self, replica: _Replica, chains: Sequence[_PendingChain]) -> None:
        now = time.perf_counter()
        self._counts += PoolCounts(wait_s=sum(now - chain.since for chain in chains))
        replica.heard = replica.heard if replica.calls else now
        records, pictures = indexed([chain.record for chain in chains])
        call = replica.worker.call("score", records, *pictures)
        replica.calls[self._keep(self._wait(replica, chains, call))] = chains

    async def _wait(self, replica: _Replica, chains: Sequence[_PendingChain], call: Call) -> None:
        """Take a replica's answer; what is wrong with it decides who pays."""
        task = asyncio.current_task()
        assert task is not None
        try:
            scores: Scores = await answer(call, deadline_s=None)
        except (WorkerLostError, RewardError) as error:  # the process ended, or its scoring thread did
            self._replace(replica, str(error))
        except Exception as error:  # not even asked: a picture is lost, or an argument cannot be read
            replica.calls.pop(task, None)
            if len(chains) == 1 and isinstance(error, LostDataError):  # no fault of the reward or the chain
                self._refuse(chains[0], error)
            else:
                logger.exception("reward %s: %s", self._name, ", ".join(c.record.chain_id for c in chains))
                self._again(chains, f"{type(error).__name__}: {error}")
        else:
            replica.heard = time.perf_counter()
            self._num_given_up = 0
            replica.calls.pop(task, None)
            for chain, score in zip(chains, split(scores, [1] * len(chains)), strict=True):
                self._answer(chain, score)
        self._dispatch()

    def _refuse(self, chain: _PendingChain, error: Exception) -> None:
        if not chain.answer.done():
            chain.answer.set_exception(error)

    def _answer(self, chain: _PendingChain, scores: Scores) -> None:
        self._counts += PoolCounts(num_chains=1)
        if not chain.answer.done():
            chain.answer.set_result(scores)

    # ------------------------------------------------------------------ replicas that hang or die

    async def _watch(self) -> None:
        """Replace replicas that have work and say nothing."""
        while True:
            await asyncio.sleep(min(1.0, self._deadline_s / 10))
            silent_since = time.perf_counter() - self._deadline_s
            for replica in [r for r in self._replicas if r.calls and r.heard < silent_since]:
                key = f"rewards.{self._name}.deadline_s"
                self._replace(replica, f"no answer within {self._deadline_s:g} s ({key})")

    def _replace(self, replica: _Replica, reason: str) -> None:
        """Kill a replica, start another, and have its unfinished work done again."""
        if replica not in self._replicas:
            return
        logger.warning("%s is replaced: %s", replica.worker.name, reason)
        self._replicas.remove(replica)
        chains = replica.chains
        for task in replica.calls:
            if task is not asyncio.current_task():
                task.cancel()  # a late answer finds nobody
        replica.calls.clear()
        kill(replica.worker)
        self._counts += PoolCounts(num_replaced=1)
        self._num_starting += 1
        self._keep(self._start_another(replica.place))
        self._again(chains, reason)

    async def _start_another(self, place: int) -> None:
        for _ in range(STARTS):
            replica = _Replica(self._spawn(place), place)
            try:
                await answer(replica.worker.call("setup"), deadline_s=self._setup_s)
            except Exception as error:
                logger.exception("%s does not start", replica.worker.name)
                self._broken = f"no replica is left, and none can be started: {error}"
                kill(replica.worker)
            else:
                self._replicas.append(replica)
                break
        self._num_starting -= 1
        self._dispatch()

    def _again(self, chains: Sequence[_PendingChain], reason: str) -> None:
        """Put unanswered chains back in front; give up those that were tried often enough."""
        left = []
        for chain in chains:
            chain.attempts += 1
            if chain.attempts < REWARD_ATTEMPTS:
                left.append(chain)
            else:
                self._give_up(chain, f"{reason}; {chain.attempts} attempts")
                self._num_given_up += 1
        self._waiting.extendleft(reversed(left))
        self._counts += PoolCounts(num_redone=len(left))
        if self._num_given_up >= HOPELESS:
            self._give_up_all(f"{reason}; {self._num_given_up} chains in a row")
        self._dispatch()

    def _give_up_all(self, reason: str) -> None:
        while self._waiting:
            self._give_up(self._waiting.popleft(), reason)

    def _give_up(self, chain: _PendingChain, reason: str) -> None:
        self._answer(chain, failed(self._name, 1, reason))

    # ------------------------------------------------------------------ small things

    def _spawn(self, place: int) -> Worker:
        worker = self._start(f"reward-{self._name}-{self._num_started}", place)
        self._num_started += 1
        return worker

    async def _ask(self, replica: _Replica) -> WorkerReport:
        try:
            report: WorkerReport = await answer(replica.worker.call("report"), deadline_s=REPORT_S)
        except Exception:
            logger.debug("%s: no report", replica.worker.name, exc_info=True)
            return replica.report
        return report

    def _keep(self, coroutine: Any) -> asyncio.Task[None]:
        """Start a task that nobody awaits, and hold on to it until it ends."""
        task: asyncio.Task[None] = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
