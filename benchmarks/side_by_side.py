"""Trainings side by side: ours and another's, each a process of its own, in turn, on the same files and threads."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.record.sinks import read_metrics
from rl.types import JsonDict, Metrics

WARM_UP = 2
"""First steps that are not timed."""


@dataclass(frozen=True)
class Way:
    """One way to train: its name, and a function that trains so many steps and says how it went."""

    name: str
    train: Callable[[int], Run]


@dataclass(frozen=True)
class Run:
    """What a training says of itself: seconds of its steps, medians of their parts, mean reward of each."""

    step_s: Sequence[float]
    parts: Mapping[str, float]
    rewards: Sequence[float]

    @property
    def median_s(self) -> float:
        """Seconds of a typical step."""
        return statistics.median(self.step_s[WARM_UP:])


def in_turn(ways: Sequence[Way], *, rounds: int, steps: int) -> dict[str, list[Run]]:
    """Train every way once a round, so that a machine whose speed drifts is as slow to all of them."""
    runs: dict[str, list[Run]] = {way.name: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            run = way.train(steps)
            runs[way.name].append(run)
            print(f"round {number}: {way.name}: {run.median_s:.3f} s a step", file=sys.stderr)
    return runs


def table(runs: Mapping[str, Sequence[Run]]) -> Iterable[str]:
    """Write a row a way: medians over rounds of each run's median step and parts, and rewards at both ends."""
    first, *_ = runs
    yield f"| | step, s | x {first} | parts, s | reward, first tenth | last tenth |"
    yield "|---|---:|---:|---|---:|---:|"
    step_s = {name: statistics.median(run.median_s for run in found) for name, found in runs.items()}
    for name, found in runs.items():
        parts = {part: statistics.median(run.parts[part] for run in found) for part in found[0].parts}
        tenth = max(len(found[0].rewards) // 10, 1)
        begin = statistics.mean(reward for run in found for reward in run.rewards[:tenth])
        end = statistics.mean(reward for run in found for reward in run.rewards[-tenth:])
        said = ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items())
        ratio = step_s[first] / step_s[name]
        yield f"| {name} | {step_s[name]:.2f} | {ratio:.2f} | {said} | {begin:.3f} | {end:.3f} |"


def run_of(rows: Sequence[Metrics], *, reward: str) -> Run:
    """Return what the metrics of our steps say, with one reward."""
    parts = ("collect", "prove", "update", "publish")
    return Run(
        step_s=[row["time/step_s"] for row in rows],
        parts={p: statistics.median(row[f"time/{p}_s"] for row in rows[WARM_UP:]) for p in parts},
        rewards=[row[f"reward/{reward}/mean"] for row in rows],
    )


def train_ours(folder: Path, config: Mapping[str, Any], *, threads: int) -> list[Metrics]:
    """Train with ours and return the metrics of its steps.

    Args:
        folder: Where the run directory comes to lie; a plugin folder too.
        config: The run but for its name.
        threads: Of every process.
    """
    name = f"ours-{time.monotonic_ns()}"
    file = folder / f"{name}.yaml"
    file.write_text(
        yaml.safe_dump({**config, "name": name, "output_dir": str(folder), "plugins": [str(folder)]})
    )
    words = [sys.executable, "-m", "cluster.cli", "train", str(file)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment(threads))
    return [row for row in read_metrics(folder / name / "metrics.jsonl") if "time/step_s" in row]


def train_other(module: str, folder: Path, steps: int, *, threads: int) -> Run:
    """Run a benchmark's module with ``--other``, which trains and writes what it took to ``other.json``."""
    words = [sys.executable, "-m", module, "--other", str(folder), "--steps", str(steps)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment(threads))
    said: JsonDict = json.loads((folder / "other.json").read_text())
    return Run(**said)


def say(folder: Path, run: Run) -> None:
    """Write what the other training took."""
    (folder / "other.json").write_text(json.dumps(vars(run)))


def environment(threads: int) -> dict[str, str]:
    """Return a process's environment."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
