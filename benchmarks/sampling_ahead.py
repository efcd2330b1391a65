"""Seconds a step with and without sampling ahead, between stages that sleep, and three ways of taking weights.

    python -m benchmarks.sampling_ahead

Rollout workers and the learner sleep; everything between them is the real thing: loop, collector, chain runner,
scoring actor, Ray. A step has 8 groups of 8 answers over 4 workers, and a worker writes 16 answers at once: so rollouts
alone take as long as a step's longest answer, as in an engine whose steps cost the same for few answers and for many.
Answers take 1 s each, or a lognormal time of mean 1 s (sigma 1, at most 6 s: a limit on tokens).

First both stages are measured alone (``max_staleness=0``, the update takes no time). Their longer one is the bound of
a step. Weights reach a worker

- ``between``: between two steps of its engine, what is being written goes on with them;
- ``drained``: when it has finished what it writes, all workers at once, what comes meanwhile waits;
- ``in turn``: likewise, but one worker after another.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import sleep

import numpy as np
import ray

from cluster.pools.chain_runner import ChainRunner, Pools, TextContext
from cluster.pools.collector import GroupCollector, sampling_ahead
from cluster.pools.group_calls import GroupCalls
from cluster.pools.scoring import Scoring
from cluster.runtime.calls import Worker, gather
from cluster.runtime.spawn import kill, spawn
from configs.load import load_config
from configs.schema import BlockConfig, Config, RewardConfig
from rewards.base import Reward
from rewards.load import reward_terms
from rl.ahead import DataPosition
from rl.chain.grammar import ChainGrammar
from rl.loop import train
from rl.ports import Ports
from rl.types import ChainView, Message, Metrics, Prompt, TextPart, TextReply, TextRequest, TrainBatch
from tests.reference.chain import WORDS, decode, vocabulary

ROOT = Path(__file__).resolve().parents[1]
NUM_WORKERS, NUM_GROUPS, GROUP_SIZE, ROWS = 4, 8, 8, 16
MEAN_S, MOST_S = 1.0, 6.0
DEADLINE_S = 600.0
TAGS = vocabulary(["answer"])
WAYS = ("between", "drained", "in turn")


class Spread(Reward):
    """Tells the chains of a group apart, for nothing."""

    def score(self, chains: Sequence[ChainView]) -> Sequence[float]:
        """Score by name."""
        return [random.Random(chain.chain_id).random() for chain in chains]


class Writer:
    """Writes so many answers at once, each in its own time; takes weights in one of two ways."""

    def __init__(self, *, lengths: str, is_drained: bool, rows: int = ROWS) -> None:
        self._lengths, self._is_drained = lengths, is_drained
        self._version = self._num_writing = 0
        self._rows = asyncio.Semaphore(rows)
        self._is_open, self._is_idle = asyncio.Event(), asyncio.Event()
        self._is_open.set()
        self._is_idle.set()

    async def generate(self, requests: Sequence[TextRequest]) -> list[TextReply]:
        """Write one answer."""
        (request,) = requests
        async with self._rows:
            while not self._is_open.is_set():
                await self._is_open.wait()
            self._num_writing += 1
            self._is_idle.clear()
            version = self._version
            await asyncio.sleep(seconds_of(request.request_id, self._lengths))
            self._num_writing -= 1
            if not self._num_writing:
                self._is_idle.set()
        tokens = np.asarray([TAGS.opening["answer"], WORDS[1], TAGS.closing["answer"]], dtype=np.int32)
        return [
            TextReply(
                request_id=request.request_id,
                tokens=tokens,
                logprobs=np.full(len(tokens), -0.5, dtype=np.float32),
                stopped=True,
                version=version,
            )
        ]

    async def load(self, version: int) -> None:
        """Take weights."""
        if self._is_drained:
            self._is_open.clear()
            await self._is_idle.wait()
            self._is_open.set()
        self._version = version


def seconds_of(name: str, lengths: str) -> float:
    """Return how long an answer takes; the same whenever it is asked."""
    if lengths == "equal":
        return MEAN_S
    return min(MOST_S, MEAN_S * math.exp(random.Random(name).gauss(-0.5, 1.0)))


@dataclass(slots=True)
class Stage:
    """Learners, publisher and sink of a run whose updates sleep."""

    workers: Sequence[Worker]
    update_s: float
    way: str
    records: list[Metrics]
    version: int = 0

    def update_all(self, batches: Mapping[str, Sequence[TrainBatch]]) -> Metrics:
        """Sleep."""
        sleep(self.update_s)
        self.version += bool(batches)
        return {}

    def publish(self) -> None:
        """Have every worker take the newest weights."""
        at_once = [self.workers] if self.way != "in turn" else [[worker] for worker in self.workers]
        for workers in at_once:
            gather([worker.call("load", self.version) for worker in workers], deadline_s=DEADLINE_S)

    def prove(self) -> Metrics:
        """Nothing was written."""
        return {}

    def log(self, step: int, metrics: Metrics) -> None:
        """Keep a step's metrics."""
        self.records.append(metrics)


def config_of(max_staleness: int, num_steps: int, *, num_groups: int = NUM_GROUPS) -> Config:
    """Return a run of one text block."""
    tiny = load_config("tiny")
    return replace(
        tiny,
        deterministic=False,
        num_steps=num_steps,
        prompts_per_step=num_groups,
        group_size=GROUP_SIZE,
        max_staleness=max_staleness,
        max_refills=0,
        chain={"answer": BlockConfig(kind="text", policy="text", max_tokens=8)},
        policies={"text": tiny.policies["text"]},
        rewards={"spread": RewardConfig(target="benchmarks.sampling_ahead:Spread")},
        deadline_s=DEADLINE_S,
    )


def writers(num: int, *, lengths: str, way: str = "between") -> list[Worker]:
    """Start rollout workers."""
    kwargs = {"lengths": lengths, "is_drained": way != "between"}
    return [
        spawn(Writer, f"rollout-text-{i}", num_cpus=0.05, max_concurrency=4096, kwargs=kwargs)
        for i in range(num)
    ]


def runner_of(config: Config, workers: Sequence[Worker], scoring: Worker) -> Worker:
    """Start a chain runner."""
    context = TextContext(
        grammar=ChainGrammar(config.chain, TAGS),
        encode=lambda _: (WORDS[0],),
        forbidden_ids=(),
        decode=lambda ids: decode(list(ids), ["answer"]),
    )
    pools = Pools(rollouts={"text": list(workers)}, scoring=scoring)
    kwargs = {"config": config, "context": context, "pools": pools}
    return spawn(ChainRunner, "runner-0", num_cpus=0.05, max_concurrency=4096, kwargs=kwargs)


def run(config: Config, runner: Worker, stage: Stage) -> list[Metrics]:
    """Make a run's steps and return their metrics."""
    calls = GroupCalls([runner], deadline_s=DEADLINE_S)
    question = Message(role="user", parts=(TextPart("how much?"),))
    collector = GroupCollector(
        config=config,
        terms=reward_terms(config),
        versions=lambda: {"text": stage.version},
        make_prompt=lambda position: Prompt(prompt_id=f"{position}", messages=(question,)),
        calls=calls,
        observe=lambda *_: None,
        ahead=sampling_ahead(config, step=0, start=DataPosition()),
    )
    try:
        ports = Ports(collector=collector, learners=stage, publisher=stage, sink=stage)
        train(config, start=0, ports=ports, terms=collector.terms, after_step=lambda _: None)
    finally:
        calls.close()
    return stage.records


def steps(scoring: Worker, *, ahead: int, update_s: float, lengths: str, way: str, num: int) -> list[Metrics]:
    """Start workers, make steps and return their metrics."""
    config = config_of(ahead, num)
    workers = writers(NUM_WORKERS, lengths=lengths, way=way)
    runner = runner_of(config, workers, scoring)
    try:
        return run(config, runner, Stage(workers, update_s, way, []))
    finally:
        for worker in (runner, *workers):
            kill(worker)


def start_scoring() -> Worker:
    """Start a Ray of our own and the scoring actor."""
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    ray.init(
        address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    kwargs = {"config": config_of(0, 1), "envs": {}}
    scoring = spawn(Scoring, "scoring-0", num_cpus=0.05, max_concurrency=4096, kwargs=kwargs)
    gather([scoring.call("setup")], deadline_s=DEADLINE_S)
    return scoring


def mean_s(records: Sequence[Metrics], name: str = "time/step_s") -> float:
    """Return the mean over the steps after the first three, in which sampling gets ahead."""
    return statistics.fmean(record[name] for record in records[3:])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=13)
    arguments = parser.parse_args()
    scoring = start_scoring()
    print(
        "| answers | rollouts alone, s | update alone, s | k | weights | step, s | of the bound | staleness |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for lengths in ("equal", "lognormal"):
        alone = steps(scoring, ahead=0, update_s=0.0, lengths=lengths, way="between", num=arguments.steps)
        rollouts_s = mean_s(alone)
        cases = [
            (1.0, 0, "between"),
            *((1.0, 1, way) for way in WAYS),
            (0.5, 1, "between"),
            (1.5, 1, "between"),
        ]
        for share, ahead, way in cases:
            update_s = share * rollouts_s
            records = steps(
                scoring, ahead=ahead, update_s=update_s, lengths=lengths, way=way, num=arguments.steps
            )
            took, oldest = mean_s(records), max(r["weights/text/staleness/max"] for r in records)
            print(
                f"| {lengths} | {rollouts_s:.2f} | {update_s:.2f} | {ahead} | {way} | {took:.2f} | "
                f"{max(rollouts_s, update_s) / took:.0%} | {oldest:.0f} |",
                flush=True,
            )
    ray.shutdown()


if __name__ == "__main__":
    main()
