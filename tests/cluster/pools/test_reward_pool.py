"""The pool of a reward with replicas that follow a script: who is sent what, and that each chain is answered once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cluster.pools.reward_pool
from actors.rewards.worker import WorkerReport
from cluster.pools.reward_pool import RewardPool
from cluster.runtime.calls import Call
from rl.errors import RewardError
from rl.types import Scores
from tests.reference.rewards import make_view

ROOM = 3


def scores_of(*values: float) -> Scores:
    return Scores(
        name="mine",
        values=np.asarray(values, dtype=np.float32),
        valid=np.ones(len(values), dtype=np.bool_),
        missing=np.zeros(len(values), dtype=np.bool_),
        reasons=("",) * len(values),
    )


@dataclass
class Reference:
    """As with Ray's, whoever stops waiting does not stop the answer."""

    answer: asyncio.Future[Any]

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.shield(self.answer).__await__()


@dataclass
class Replica:
    """Answers when told to; knows what it holds."""

    name: str
    stage: Stage
    asked: dict[int, asyncio.Future[Scores]] = field(default_factory=dict)
    calls: dict[asyncio.Future[Scores], list[int]] = field(default_factory=dict)
    """Chains of each call."""

    def call(self, method: str, *args: Any) -> Call:
        loop = asyncio.get_running_loop()
        ref: asyncio.Future[Any] = loop.create_future()
        if method == "setup":
            loop.call_soon(ref.set_result, None)
        elif method == "report":
            ref.set_result(WorkerReport())
        else:
            indexes = [int(chain.chain_id.rpartition("/")[2]) for chain in args[0]]
            self.calls[ref] = indexes
            for index in indexes:
                self.asked[index] = ref
                self.stage.sent.append((self.name, index))
                self.stage.beside[index] = max(self.stage.beside.get(index, 0), len(self.held))
        return Call(name=self.name, method=method, ref=Reference(ref))

    @property
    def held(self) -> list[int]:
        return [index for index, ref in self.asked.items() if not ref.done()]

    def answer(self, index: int) -> None:
        """Answer the call that has this chain."""
        self.asked[index].set_result(scores_of(*self.calls[self.asked[index]]))

    def lose(self) -> None:
        """The process ends: everything it holds fails."""
        for ref in self.calls:
            if not ref.done():
                ref.set_exception(RewardError("the process ended"))


@dataclass
class Stage:
    """All replicas that ever were."""

    replicas: list[Replica] = field(default_factory=list)
    sent: list[tuple[str, int]] = field(default_factory=list)
    beside: dict[int, int] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def start(self, name: str, place: int) -> Any:
        self.replicas.append(Replica(name, self))
        return self.replicas[-1]

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.name not in self.killed]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return patched(monkeypatch)


def patched(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(cluster.pools.reward_pool, "kill", lambda worker: stage.killed.append(worker.name))
    return stage


async def open_pool(
    stage: Stage, num_replicas: int, deadline_s: float = 60.0, batch_size: int = 1
) -> RewardPool:
    pool = RewardPool(
        "mine",
        num_replicas=num_replicas,
        batch_size=batch_size,
        room=ROOM,
        deadline_s=deadline_s,
        setup_s=60.0,
        start=stage.start,
    )
    await pool.setup()
    return pool


def send(pool: RewardPool, index: int) -> asyncio.Task[Scores]:
    return asyncio.create_task(pool.score(make_view("words", chain_id=f"g/{index}")))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def close(pool: RewardPool) -> None:
    for task in list(pool._tasks):
        task.cancel()
    await settle()


def test_the_replica_with_the_least_to_do_is_next_and_the_pool_holds_the_rest(stage: Stage) -> None:
    async def main() -> None:
        pool = await open_pool(stage, 2)
        tasks = [send(pool, index) for index in range(10)]
        await settle()
        one, two = stage.replicas
        assert (one.held, two.held) == ([0, 2, 4], [1, 3, 5])
        two.answer(3)
        await settle()
        two.answer(1)
        await settle()
        assert (one.held, two.held) == ([0, 2, 4], [5, 6, 7])
        while replicas := [replica for replica in stage.replicas if replica.held]:
            replicas[0].answer(replicas[0].held[0])
            await settle()
        assert [float((await task).values[0]) for task in tasks] == [float(i) for i in range(10)]
        counts = await pool.counts()
        assert (counts.num_chains, counts.num_replaced, counts.num_redone) == (10, 0, 0)
        await close(pool)

    asyncio.run(main())


def test_chains_that_come_at_once_are_sent_at_once_to_all_replicas(stage: Stage) -> None:
    async def main() -> None:
        pool = await open_pool(stage, 2, batch_size=ROOM)
        tasks = [send(pool, index) for index in range(7)]
        await settle()
        assert [list(replica.calls.values()) for replica in stage.replicas] == [[[0, 1, 2]], [[3, 4, 5]]]
        stage.replicas[1].answer(4)
        await settle()
        assert stage.replicas[1].held == [6]
        stage.replicas[0].answer(0)
        stage.replicas[1].answer(6)
        assert [float((await task).values[0]) for task in tasks] == [float(i) for i in range(7)]
        await close(pool)

    asyncio.run(main())


def test_suspects_are_sent_alone_and_a_late_answer_finds_nobody(stage: Stage) -> None:
    async def main() -> None:
        pool = await open_pool(stage, 1, deadline_s=0.2)
        tasks = [send(pool, index) for index in range(4)]
        await settle()
        (hung,) = stage.replicas
        assert hung.held == [0, 1, 2]
        while not stage.killed:
            await asyncio.sleep(0.01)
        assert stage.killed == ["reward-mine-0"]
        hung.asked[0].set_result(scores_of(99))
        for index in range(3):
            await settle()
            assert stage.replicas[-1].held == [index]
            stage.replicas[-1].answer(index)
        await settle()
        stage.replicas[-1].answer(3)
        assert [float((await task).values[0]) for task in tasks] == [0.0, 1.0, 2.0, 3.0]
        counts = await pool.counts()
        assert (counts.num_chains, counts.num_replaced, counts.num_redone) == (4, 1, 3)
        await close(pool)

    asyncio.run(main())


def test_where_nothing_is_ever_answered_all_are_given_up_soon(stage: Stage) -> None:
    async def main() -> None:
        pool = await open_pool(stage, 1, deadline_s=0.1)
        answers = await asyncio.wait_for(asyncio.gather(*(send(pool, i) for i in range(50))), timeout=10)
        assert not any(one.valid[0] for one in answers)
        assert all("no answer within 0.1 s (rewards.mine.deadline_s)" in one.reasons[0] for one in answers)
        assert len(stage.sent) == ROOM + 2
        await close(pool)

    asyncio.run(main())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    num_replicas=st.integers(1, 3),
    batch_size=st.integers(1, ROOM + 1),
    poison=st.sets(st.integers(0, 19), max_size=3),
)
def test_every_chain_is_answered_once_whatever_happens(
    seed: int, num_replicas: int, batch_size: int, poison: set[int]
) -> None:
    """Answers come in any order, replicas die at any time; a poisoned chain kills whoever holds it."""
    rng = random.Random(seed)

    async def main(stage: Stage) -> None:
        pool = await open_pool(stage, num_replicas, batch_size=batch_size)
        tasks = [send(pool, index) for index in range(20)]
        while not all(task.done() for task in tasks):
            await settle()
            busy = [replica for replica in stage.alive if replica.held]
            if not busy:
                continue
            replica = rng.choice(busy)
            assert len(replica.held) <= ROOM
            assert all(len(indexes) <= batch_size for indexes in replica.calls.values())
            index = rng.choice(replica.held)
            if poison.intersection(replica.calls[replica.asked[index]]) or (
                len(replica.held) > 1 and rng.random() < 0.1
            ):
                replica.lose()
            else:
                replica.answer(index)
        answers = [task.result() for task in tasks]
        lost = {index for index, one in enumerate(answers) if not one.valid[0]}
        assert all(float(one.values[0]) == i for i, one in enumerate(answers) if i not in lost)
        assert lost >= poison
        if len(poison) < 2:  # two in a row speak against the reward, and others may be given up with them
            assert lost == poison
        counts = await pool.counts()
        assert counts.num_chains == 20
        assert counts.num_replaced == len(stage.killed) == len(stage.replicas) - num_replicas
        await close(pool)

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(main(patched(monkeypatch)))
