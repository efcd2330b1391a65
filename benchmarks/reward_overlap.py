"""What four extra experts of 100 ms cost a step: none of the time where rewards overlap with rollouts.

    python -m benchmarks.reward_overlap

The rollouts are light stand-ins that sleep (text 0.3 s a block, pictures 1.2 s, times ``--stretch``, each chain a
little longer or shorter), and so is the learner's update. Everything between them is the real thing: chain
runner, scoring actor, reward pools, reward actors, Ray. An expert takes 100 ms a call, however many chains are in it.

Three ways take turns: without the experts, with them as a run has them, and with them called one after another on
the whole batch when its last chain is done, as a serial scorer does. The table has medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from cluster.pools.chain_runner import ChainRunner, GroupRequest, Pools, TextContext
from cluster.pools.scoring import Scoring
from cluster.runtime.calls import Worker, gather
from cluster.runtime.spawn import spawn
from configs.load import load_config
from configs.schema import Config, RewardConfig
from rewards.base import Need, Reward
from rl.chain.grammar import ChainGrammar
from rl.restoration.names import restoration_prompt
from rl.types import (
    ChainView,
    DenoisingSegment,
    ImageReply,
    ImageRequest,
    Pixels,
    SamplerSpec,
    TextReply,
    TextRequest,
)
from tests.reference.chain import PLACEHOLDER, VISION_END, VISION_START, WORDS, decode, vocabulary

ROOT = Path(__file__).resolve().parents[1]
CONFIG = replace(load_config("demo"), deterministic=False, rewards={})
NAMES = list(CONFIG.chain)
TAGS = vocabulary(NAMES)
EXPERT_S = 0.1
NUM_EXPERTS = 4
DEADLINE_S = 600.0


class SleepingExpert(Reward):
    """Takes 100 ms a call."""

    needs = frozenset({Need.FINAL_PICTURE})

    def score(self, chains: Sequence[ChainView]) -> Sequence[float]:
        """Sleep, then score."""
        time.sleep(EXPERT_S)
        return [0.5] * len(chains)


@dataclass(frozen=True)
class Writer:
    """Writes what the grammar wants, in its own time."""

    stretch: float

    async def generate(self, requests: Sequence[TextRequest], *pictures: Pixels) -> list[TextReply]:
        """Write one block a request."""
        await asyncio.sleep(0.3 * self.stretch * pace(requests[0].request_id))
        return [self._reply(request) for request in requests]

    def _reply(self, request: TextRequest) -> TextReply:
        block = request.request_id.rpartition("/")[2]
        following = NAMES[NAMES.index(block) + 1]
        tokens = [TAGS.opening[block], WORDS[1], TAGS.closing[block]]
        if CONFIG.chain[following].kind == "image":
            tokens.append(TAGS.opening[following])
        return TextReply(
            request_id=request.request_id,
            tokens=np.asarray(tokens, dtype=np.int32),
            logprobs=np.full(len(tokens), -0.5, dtype=np.float32),
            stopped=True,
            version=1,
        )


@dataclass(frozen=True)
class Painter:
    """Paints grey squares, in its own time."""

    stretch: float

    async def generate(self, requests: Sequence[ImageRequest], *pictures: Pixels) -> tuple[Any, ...]:
        """Paint one picture a request."""
        await asyncio.sleep(1.2 * self.stretch * pace(requests[0].request_id))
        made: list[Any] = []
        for request in requests:
            made += [np.full((request.size_px, request.size_px, 3), 128, dtype=np.uint8), segment(request)]
            made.append(np.zeros(0, dtype=np.uint8))
        replies = [ImageReply(request_id=r.request_id, steps=(0,), shape_key=(), version=1) for r in requests]
        return replies, *made


def pace(request_id: str) -> float:
    """How much longer than usual a request takes, 0.8 to 1.2; the same whenever it is asked."""
    return random.Random(request_id.partition("#")[2]).uniform(0.8, 1.2)


def segment(request: ImageRequest) -> DenoisingSegment:
    """Return what a picture's painter remembers."""
    num = request.num_steps
    return DenoisingSegment(
        block=request.block,
        latents=np.zeros((num + 1, 3, 8, 8), dtype=np.float32),
        timesteps=np.linspace(1000, 0, num, endpoint=False, dtype=np.float32),
        levels=np.linspace(1, 0, num + 1, dtype=np.float32),
        behaviour_logprobs=np.zeros(num, dtype=np.float32),
        action_mask=np.arange(num) < num - 1,
        pictures=("degraded",),
        size_px=request.size_px,
        height_px=request.height_px,
        seed=request.seed,
        sampler=SamplerSpec(),
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--stretch", type=float, default=1.0, help="how much longer rollouts take than 4.8 s")
    parser.add_argument("--update-s", type=float, default=2.0, help="the learner's update, slept")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    ray.init(
        num_cpus=16, include_dashboard=False, log_to_driver=False, configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    cheap = RewardConfig(target="rewards.format:FormatReward")
    expert = RewardConfig(target="benchmarks.reward_overlap:SleepingExpert")
    experts = {f"expert_{i}": expert for i in range(NUM_EXPERTS)}
    ways = {
        "without them": open_runner({"format": cheap}, arguments.stretch),
        "in pools": open_runner({"format": cheap} | experts, arguments.stretch),
    }
    seconds: dict[str, list[float]] = {"without them": [], "in pools": [], "one after another": []}
    for turn in range(arguments.rounds + 1):
        for name, found in seconds.items():
            runner = ways.get(name, ways["without them"])
            begin = time.perf_counter()
            step(runner, arguments.prompts, turn)
            if name == "one after another":
                time.sleep(NUM_EXPERTS * EXPERT_S)
            time.sleep(arguments.update_s)
            if turn:  # the first warms up
                found.append(time.perf_counter() - begin)
    print_table(seconds)
    ray.shutdown()


def open_runner(rewards: dict[str, RewardConfig], stretch: float) -> Worker:
    """Start a chain runner between stand-ins for rollouts and real rewards."""
    config: Config = replace(CONFIG, rewards=rewards, deadline_s=DEADLINE_S)
    scoring = spawn(
        Scoring, "scoring-0", num_cpus=0.05, max_concurrency=1024, kwargs={"config": config, "envs": {}}
    )
    gather([scoring.call("setup")], deadline_s=DEADLINE_S)
    rollouts = [
        spawn(cls, cls.__name__, num_cpus=0.05, max_concurrency=1024, kwargs={"stretch": stretch})
        for cls in (Writer, Painter)
    ]
    context = TextContext(
        grammar=ChainGrammar(CONFIG.chain, TAGS),
        encode=lambda _: (VISION_START, PLACEHOLDER, VISION_END, WORDS[0]),
        forbidden_ids=(),
        decode=lambda ids: decode(list(ids), NAMES),
    )
    pools = Pools(rollouts={"text": rollouts[:1], "image": rollouts[1:]}, scoring=scoring)
    kwargs = {"config": config, "context": context, "pools": pools}
    return spawn(ChainRunner, "runner-0", num_cpus=0.05, max_concurrency=1024, kwargs=kwargs)


def step(runner: Worker, num_prompts: int, turn: int) -> None:
    """Sample and score the groups of one step; the same turn takes the rollouts the same time."""
    photo = np.zeros((16, 16, 3), dtype=np.uint8)
    prompts = [restoration_prompt(f"photo-{turn}-{index}", photo) for index in range(num_prompts)]
    requests = [GroupRequest(prompt=prompt, draw=turn, num_chains=CONFIG.group_size) for prompt in prompts]
    groups = gather([runner.call("run_group", request) for request in requests], deadline_s=DEADLINE_S)
    assert all(scores.valid.all() for group in groups for scores in group.scores.values())


def print_table(seconds: dict[str, list[float]]) -> None:
    """Print medians, and what each way adds to the step without experts."""
    alone = seconds["without them"]
    print(f"| {NUM_EXPERTS} extra experts of {EXPERT_S * 1e3:.0f} ms | step, s | added, s | added |")
    print("|---|---|---|---|")
    for name, found in seconds.items():
        added = statistics.median(a - b for a, b in zip(found, alone, strict=True))
        share = added / statistics.median(alone)
        print(f"| {name} | {statistics.median(found):.2f} | {added:+.2f} | {share:+.1%} |")


if __name__ == "__main__":
    main()
