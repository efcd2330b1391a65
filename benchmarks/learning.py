"""Does GRPO teach? The configuration `learning`, once a seed, evaluated on held-out photographs.

    python benchmarks/learning.py                     # three seeds, one after another
    python benchmarks/learning.py num_steps=40 --seeds 0    # shorter; overrides are key=value
    python benchmarks/learning.py --unseen photos/          # and how both do on a folder of other photographs

Each seed makes a cold start of its own, trains, and evaluates before and after with the deterministic sampler
and with the stochastic one that was trained. The table pools the paired differences of all seeds: one value
a seed and prompt. Finished seeds are not run again. Writes `<output_dir>/learning.json` and `learning.md`.

With `--unseen` start and newest weights of each seed also answer crops of photographs that neither the cold start nor
GRPO saw any part of, degraded by another preset (`--preset`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.record.sinks import read_metrics
from cluster.record.tables import eval_markdown
from configs.load import load_config
from rl.measure.statistics import summarise_eval
from rl.types import JsonDict

FILES = {"deterministic": "eval.json", "stochastic": "eval_stochastic.json"}
"""What a run writes for each sampler."""


def main() -> None:
    """Run what is not there yet, then print and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="learning", help="configuration to run")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes to the configuration")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--unseen", type=Path, help="folder of other photographs")
    parser.add_argument("--preset", default="light", help="how these are degraded")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/learning"))
    arguments = parser.parse_args()
    runs = [
        run_seed(arguments.config, seed, arguments.output_dir, arguments.overrides)
        for seed in arguments.seeds
    ]
    tables = {
        name: summarise(evaluations(runs, file))
        for name, file in FILES.items()
        if all((run / file).exists() for run in runs)
    }
    if arguments.unseen:
        of_runs = {run.name: on_unseen(run, arguments.unseen, arguments.preset) for run in runs}
        for text in next(iter(of_runs.values())):
            found = {name: by_text[text] for name, by_text in of_runs.items()}
            tables[f"unseen photographs, text {text}, deterministic"] = summarise(found)
    (arguments.output_dir / "learning.json").write_text(json.dumps(tables, indent=1) + "\n")
    text = "\n".join(f"### {sampler} sampler\n\n{eval_markdown(t)}" for sampler, t in tables.items())
    text += "\n" + "\n".join(
        f"seed {s}: {duration(run)}" for s, run in zip(arguments.seeds, runs, strict=True)
    )
    (arguments.output_dir / "learning.md").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def run_seed(config: str, seed: int, output_dir: Path, overrides: Sequence[str]) -> Path:
    """Train one seed, or go on with it, and return its run directory."""
    run = output_dir / f"seed-{seed}"
    settings = [f"seed={seed}", f"name={run.name}", f"output_dir={output_dir}", *overrides]
    if not (run / "report.html").exists():
        resume = ["resume=true"] if (run / "resolved.yaml").exists() else []
        words = [sys.executable, "-m", "cluster.cli", "train", config, *settings, *resume]
        subprocess.run(words, check=True)
    return run


def evaluations(runs: Sequence[Path], file: str) -> dict[str, JsonDict]:
    """Read what every run's evaluation says of each prompt."""
    return {run.name: json.loads((run / file).read_text())["prompts"] for run in runs}


def on_unseen(run: Path, photographs: Path, preset: str) -> dict[str, JsonDict]:
    """Have a run's start and its newest weights answer crops of other photographs.

    Returns:
        Both rows by prompt, of text read greedily and, where the run draws it too, of drawn text.
    """
    config = load_config(str(run))
    (newest,) = sorted(run.glob("checkpoints/step_*"))[-1:]
    models = {
        "start": {name: run / "start" / name for name in config.policies},
        "now": {name: newest / name / "model" for name in config.policies},
    }
    said: dict[str, JsonDict] = {}
    for model, sources in models.items():
        folder = run / f"unseen-{model}"
        if not (folder / "eval.json").exists():
            settings = [
                *(f"policies.{name}.source={source}" for name, source in sources.items()),
                f"coldstart.directory={run / 'start'}",
                f"data.images={photographs}",
                f"data.degradation={preset}",
                f"name={folder.name}",
                f"output_dir={run}",
            ]
            words = [sys.executable, "-m", "cluster.cli", "eval", str(run / "resolved.yaml"), *settings]
            subprocess.run(words, check=True)
        said[model] = json.loads((folder / "eval.json").read_text())
    rows = {"greedy": {model: found["prompts"] for model, found in said.items()}}
    if "drawn" in said["now"]:
        rows["drawn"] = {model: found["drawn"]["prompts"] for model, found in said.items()}
    return {text: _joined(**found) for text, found in rows.items()}


def _joined(start: JsonDict, now: JsonDict) -> JsonDict:
    """Put the start's row of each prompt before the newest weights' one."""
    return {
        name: {**found, "start": start[name]["now"], "now": found.pop("now")} for name, found in now.items()
    }


def summarise(found: Mapping[str, JsonDict]) -> JsonDict:
    """Join the evaluations of all seeds: a prompt of two seeds counts twice, as two draws."""
    prompts = {f"{run}/{name}": rows for run, of_run in found.items() for name, rows in of_run.items()}
    first = next(iter(prompts.values()))
    columns = {
        row: {metric: [rows[row][metric] for rows in prompts.values()] for metric in first[row]}
        for row in first
    }
    return summarise_eval(list(prompts), columns)


def duration(run: Path) -> str:
    """Say how long the GRPO part of a run took."""
    records = read_metrics(run / "metrics.jsonl")
    return f"{len(records)} steps in {sum(r['time/step_s'] for r in records) / 60:.1f} minutes"


if __name__ == "__main__":
    main()
