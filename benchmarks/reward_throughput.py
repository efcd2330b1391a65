"""Pictures a second of one pyiqa expert: called in a plain loop, and behind a reward pool of one replica.

    python -m benchmarks.reward_throughput                                   # TOPIQ-NR, 64 and 128 px
    python -m benchmarks.reward_throughput --expert cnniqa --sizes 64 --num 256

The experts have random weights (nothing is downloaded) and one thread in every case. The loop converts a picture and
calls the metric, one picture after another, in this process. The pool is the one of a run: scoring actor, queue,
reward actor, object store; all chains are sent at once, as at the end of a large step. The ways take turns on the
same cores, and the table has medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from cluster.pools.scoring import Scoring
from cluster.runtime.calls import Worker, gather, put
from cluster.runtime.spawn import kill, spawn
from configs.load import load_config
from configs.schema import RewardConfig
from rewards.experts.expert import Expert, to_tensor
from rl.types import Finish, FinishedChain, Pixels, Prompt

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 600.0
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "cnniqa": {"pretrained": None},
    "topiq_nr": {"pretrained": False, "backbone_pretrain": False},
}
"""What makes pyiqa leave the weights as they are drawn."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expert", choices=sorted(OPTIONS), default="topiq_nr")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="edges of the pictures, px")
    parser.add_argument("--num", type=int, default=64, help="pictures a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="batch_size of the batching pool")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    torch.set_num_threads(1)
    ray.init(
        num_cpus=8, include_dashboard=False, log_to_driver=False, configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    entry = {"options": OPTIONS[arguments.expert]}
    pools = {
        f"pool, batches of {size}": open_pool(arguments.expert, entry, size) for size in (1, arguments.batch)
    }
    expert = Expert(arguments.expert, options=dict(OPTIONS[arguments.expert]))
    expert.setup()
    print("| expert | pictures | way | pictures/s | x loop |")
    print("|---|---|---|---|---|")
    for size_px in arguments.sizes:
        measure(size_px, expert, pools, arguments.num, arguments.rounds)
    for pool in pools.values():
        kill(pool)
    ray.shutdown()


def open_pool(name: str, entry: Mapping[str, Any], batch_size: int) -> Worker:
    """Start a scoring actor with the expert behind one replica."""
    reward = RewardConfig(
        target="rewards.generation:GenerationReward",
        options={"experts": {name: {**entry, "range": [-1e6, 1e6]}}},
        batch_size=batch_size,
    )
    config = replace(load_config("demo"), rewards={"expert": reward}, deadline_s=DEADLINE_S)
    kwargs = {"config": config, "envs": {}}
    worker = spawn(Scoring, "scoring-0", num_cpus=0.05, max_concurrency=1024, kwargs=kwargs)
    gather([worker.call("setup")], deadline_s=DEADLINE_S)
    return worker


def measure(size_px: int, expert: Expert, pools: dict[str, Worker], num: int, rounds: int) -> None:
    """Print the rows of one picture size."""
    rng = np.random.default_rng(size_px)
    pictures = [rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8) for _ in range(num)]
    chains = send_ahead(pictures)
    ways: dict[str, Callable[[], object]] = {"loop": lambda: [call(expert, picture) for picture in pictures]}
    for name, pool in pools.items():
        ways[name] = lambda pool=pool: score(pool, chains)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - begin)
    loop = statistics.median(seconds["loop"])
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(
            f"| {expert.name} | {num} of {size_px} px | {name} | {num / middle:.0f} | {loop / middle:.2f} |",
            flush=True,
        )


def call(expert: Expert, picture: Pixels) -> float:
    """Score one picture as a script would."""
    return float(expert._metric(to_tensor([picture])))


def send_ahead(pictures: list[Pixels]) -> list[FinishedChain[Any]]:
    """Make one finished chain a picture."""
    return [
        FinishedChain(
            chain_id=f"bench/{index}", group_id="bench", finish=Finish.STOP, text="", block_text={},
            final_block="final_image", pictures={"final_image": put(picture)}, prompt=Prompt(prompt_id="bench"),
        )
        for index, picture in enumerate(pictures)
    ]  # fmt: skip


def score(pool: Worker, chains: list[FinishedChain[Any]]) -> None:
    """Score all chains and wait for the last."""
    answers = gather([pool.call("score", [chain]) for chain in chains], deadline_s=DEADLINE_S)
    assert all(answer["expert"].valid[0] for (answer,) in answers)


if __name__ == "__main__":
    main()
