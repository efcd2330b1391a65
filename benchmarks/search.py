"""Does the search find what was lost? The demo with learning rates ten times too small, and `vlcot search` from there.

    python benchmarks/search.py                                 # 10 trials of 45 steps, two plain runs
    python benchmarks/search.py --trials 24 group_size=16        # overrides are key=value

Runs `good` (the demo's learning rates) and `bad` (a tenth of both), then searches both learning rates within a factor
of 30 either way of the bad ones: the search is not told which way is right. All share one cold start. The gains over
it are compared on held-out prompts that the search never saw, paired by prompt; `recovered` is the winner's gain over
the good run's, with a bootstrap interval over prompts. Exits with 1 where it is below 0.9. What is there already is
not run again. Writes `<output_dir>/search.md` and `search.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.search.trials import TRIALS, TrialBook
from configs.load import load_config
from configs.search import PLAN
from rl.measure.statistics import mean_interval

OFF = 10.0
"""How far the learning rates are off."""
EITHER_WAY = 30.0
"""The space: from the wrong learning rate over this to that times this."""
WANTED = 0.9
"""Share of the good run's gain that the winner must have."""
NUM_RESAMPLES = 4000
RATES = ("policies.text.learner.learning_rate", "policies.image.learner.learning_rate")
Gains = NDArray[np.float64]


def main() -> None:
    """Run what is not there yet, evaluate it, and print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes to the configuration")
    parser.add_argument("--config", default="demo", help="the good configuration")
    parser.add_argument("--steps", type=int, default=45, help="GRPO steps of every run")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=288, help="held-out prompts the search looks at")
    parser.add_argument("--unseen", type=int, default=768, help="further ones that runs are compared on")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/search"))
    arguments = parser.parse_args()
    folder = arguments.output_dir
    third = max(arguments.steps // 3, 1)
    common = [
        f"output_dir={folder}",
        f"num_steps={arguments.steps}",
        f"save_every={third}",
        f"eval.num_prompts={arguments.prompts}",
        "eval.metrics=[psnr,ssim]",
        *arguments.overrides,
    ]
    bad = wrong_rates(arguments.config, arguments.overrides)
    seconds = {
        "good": train(arguments.config, folder, "good", common),
        "bad": train(arguments.config, folder, "bad", [*common, *settings(bad)]),
    }
    searched = [*common, *settings(bad), f"eval.every={third}", f"search.num_trials={arguments.trials}"]
    seconds["search"] = search(arguments.config, folder, [*searched, *space(bad)])
    runs = {"good": folder / "good", "bad": folder / "bad", "found": folder / "search" / "best"}
    gains = compare(arguments.config, folder, runs, common, (arguments.prompts, arguments.unseen))
    recovered, low, high = recovery(gains["found"], gains["good"])
    text = table(gains, (recovered, low, high), folder / "search", seconds)
    said = {
        "gains": {name: float(g.mean()) for name, g in gains.items()},
        "recovered": [recovered, low, high],
    }
    (folder / "search.json").write_text(json.dumps(said | {"seconds": seconds}, indent=1) + "\n")
    (folder / "search.md").write_text(text)
    sys.stdout.write(text)
    sys.exit(0 if recovered >= WANTED else 1)


# --------------------------------------------------------------------------------- runs


def wrong_rates(config: str, overrides: Sequence[str]) -> dict[str, float]:
    """Return the configuration's learning rates, ten times too small."""
    policies = load_config(config, overrides).policies
    return {key: policies[key.split(".")[1]].learner.learning_rate / OFF for key in RATES}


def settings(values: Mapping[str, float]) -> list[str]:
    """Write values as overrides."""
    return [f"{key}={value:.6g}" for key, value in values.items()]


def space(wrong: Mapping[str, float]) -> list[str]:
    """Write what is searched as overrides."""
    return [
        f"search.space.{key}={{log_uniform: [{value / EITHER_WAY:.6g}, {value * EITHER_WAY:.6g}]}}"
        for key, value in wrong.items()
    ]


def train(config: str, folder: Path, name: str, overrides: Sequence[str]) -> float:
    """Train a run, or go on with it; return its seconds, 0 where it was there."""
    run = folder / name
    if (run / "report.html").exists():
        return 0.0
    resume = ["resume=true"] if (run / "resolved.yaml").exists() else []
    return timed("train", config, f"name={name}", *overrides, *resume)


def search(config: str, folder: Path, overrides: Sequence[str]) -> float:
    """Search, or go on searching; return its seconds, 0 where it was there."""
    if (folder / "search" / "best").exists():
        return 0.0
    if (folder / "search" / PLAN).exists():
        return timed("search", str(folder / "search"))
    return timed("search", config, "name=search", *overrides)


def timed(*words: str) -> float:
    """Run a command of vlcot and return its seconds."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-m", "cluster.cli", *words], check=True)
    return time.perf_counter() - begin


# --------------------------------------------------------------------------------- comparing


def compare(
    config: str, folder: Path, runs: Mapping[str, Path], overrides: Sequence[str], prompts: tuple[int, int]
) -> dict[str, Gains]:
    """Return each run's gain over the cold start, a value a prompt that the search never saw."""
    seen, unseen = prompts
    number = f"eval.num_prompts={seen + unseen}"
    start = folder / "start"
    if not (start / "eval.json").exists():
        timed("eval", config, "name=start", *overrides, number)
    before = totals(start, seen)
    after = {}
    for name, run in runs.items():
        if len(json.loads((run / "eval.json").read_text())["prompts"]) < seen + unseen:
            timed("eval", str(run), number)
        after[name] = totals(run, seen)
    shared = [p for p in before if all(p in found for found in after.values())]
    return {name: np.array([found[p] - before[p] for p in shared]) for name, found in after.items()}


def totals(run: Path, seen: int) -> dict[str, float]:
    """Return the held-out total of the prompts behind the first ``seen``."""
    prompts = json.loads((run / "eval.json").read_text())["prompts"]
    values = {prompt: rows["now"]["total"] for prompt, rows in list(prompts.items())[seen:]}
    return {prompt: value for prompt, value in values.items() if value is not None}


def recovery(found: Gains, good: Gains) -> tuple[float, float, float]:
    """Return the ratio of the mean gains and its 95 % bootstrap interval over prompts."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, found.size, (NUM_RESAMPLES, found.size))
    ratios = found[rows].mean(axis=1) / good[rows].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(found.mean() / good.mean()), float(low), float(high)


def table(
    gains: Mapping[str, Gains],
    recovered: tuple[float, float, float],
    folder: Path,
    seconds: Mapping[str, float],
) -> str:
    """Write the figures as Markdown."""
    lines = [
        "| run | learning rate text | image | gain in total | 95 % interval |",
        "|---|---:|---:|---:|---:|",
    ]
    places = {"good": folder.parent / "good", "bad": folder.parent / "bad", "found": folder / "best"}
    for name, values in gains.items():
        policies = load_config(str(places[name])).policies
        interval = mean_interval(values)
        lines.append(
            f"| {name} | {policies['text'].learner.learning_rate:.2g} | {policies['image'].learner.learning_rate:.2g} "
            f"| {interval.mean:+.3f} | [{interval.low:.3f}, {interval.high:.3f}] |"
        )
    trials = TrialBook(folder / TRIALS).all()
    num_steps = sum(trial.step for trial in trials)
    ratio, low, high = recovered
    lines += [
        "",
        f"recovered {ratio:.0%} [{low:.0%}, {high:.0%}] of the good run's gain, on {next(iter(gains.values())).size} "
        f"prompts; budget: {len(trials)} trials, {num_steps} GRPO steps, {seconds['search'] / 60:.0f} minutes",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
