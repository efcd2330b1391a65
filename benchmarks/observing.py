"""What watching a run costs: steps with and without signs of life, timeline.json and status.json.

    python benchmarks/observing.py                        # the demo, five runs of 24 steps each way
    python benchmarks/observing.py --rounds 3 group_size=16

Runs take turns, each in processes of its own, from one cold start. Both ways do the same work (same seeds; the chains
are the same but for rounding); a round's two runs are a pair, and the interval is over rounds. The first two steps of
a run warm up. Without watching no worker sends heartbeats, and nothing is collected or written; spans are still noted
in each process, which costs microseconds (last line of the table).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from cluster.record.observer import Observer
from cluster.record.sinks import read_metrics
from cluster.run.train import train
from configs.load import load_config
from rl.measure.statistics import mean_interval
from rl.spans import SpanLog

WARM_UP = 2
NUM_SPANS = 100_000
Seconds = NDArray[np.float64]


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes to the configuration")
    parser.add_argument("--config", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/observing"))
    parser.add_argument("--run", choices=("watched", "unwatched"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    overrides = [
        f"num_steps={arguments.steps}",
        f"save_every={arguments.steps}",
        "eval.num_prompts=8",
        f"output_dir={arguments.output_dir}",
        *arguments.overrides,
    ]
    if arguments.run is not None:
        with unwatched() if arguments.run == "unwatched" else nullcontext():
            train(load_config(arguments.config, overrides))
        return
    seconds: dict[str, list[list[float]]] = {"unwatched": [], "watched": []}
    for turn in range(arguments.rounds):
        for way in seconds if turn % 2 else reversed(seconds):
            words = ["--run", way, "--config", arguments.config, *overrides, f"name={way}-{turn}"]
            subprocess.run([sys.executable, __file__, *words], check=True)
            records = read_metrics(arguments.output_dir / f"{way}-{turn}" / "metrics.jsonl")
            seconds[way].append([r["time/step_s"] for r in records if "time/step_s" in r][WARM_UP:])
    print_table(np.asarray(seconds["watched"]), np.asarray(seconds["unwatched"]))


@contextmanager
def unwatched() -> Iterator[None]:
    """Have nobody listen to the workers, and nothing written down."""
    quiet = lambda *_: nullcontext()  # noqa: E731 - stands for a method
    with patch.object(Observer, "listening", quiet), patch.object(Observer, "watching", quiet):
        yield


def print_table(watched: Seconds, unwatched: Seconds) -> None:
    """Print means, the difference with its interval, and the cost of a span; both arguments are (rounds, steps)."""
    rounds = 100 * (watched.mean(axis=1) / unwatched.mean(axis=1) - 1)
    added = mean_interval(rounds)
    print("| | |\n|---|---:|")
    print(f"| step, watched, mean of {watched.size} | {watched.mean():.3f} s |")
    print(f"| step, unwatched, mean | {unwatched.mean():.3f} s |")
    print(f"| watching adds | {added.mean:+.1f} % [{added.low:+.1f}, {added.high:+.1f}] |")
    print(f"| by round | {', '.join(f'{one:+.1f} %' for one in rounds)} |")
    print(f"| one span | {span_us():.1f} µs |")


def span_us() -> float:
    """Return what noting one span costs, microseconds."""
    log = SpanLog()
    begin = time.perf_counter()
    for index in range(NUM_SPANS):
        with log.span("score", num=index):
            pass
    return (time.perf_counter() - begin) / NUM_SPANS * 1e6


if __name__ == "__main__":
    main()
