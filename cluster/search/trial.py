"""Trial of a search: a whole run, by the very code of ``vlcot train``, that tells how it does.

Runs in a Ray Tune actor. The actors it spawns are in the trial's own placement group, and end with it.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory

from cluster.record.run_files import read_evaluation
from cluster.record.rundir import RunDir
from cluster.record.tables import LOWER_IS_BETTER
from cluster.run.train import train
from cluster.runtime.calls import Worker
from cluster.runtime.placement_groups import trial_bundles
from cluster.search.searcher import OBJECTIVE, STEP
from cluster.search.trials import Trial, TrialBook
from configs.derive import coldstart_directory
from configs.errors import first_line, leaves
from configs.planning.placement import place
from configs.schema import Config
from configs.search import SearchPlan
from rl.measure.statistics import NOW
from rl.types import JsonDict

ERROR = "error.txt"
"""In a trial's directory: the traceback of what ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRunner:
    """Runs trials of one search, each in a process of its own."""

    plan: SearchPlan
    book: TrialBook
    scoring: Worker | None = None
    """The scoring actor that all trials share; None gives each its own."""

    def __call__(self, suggestion: Mapping[str, Any]) -> None:
        """Run a trial, or go on with it, and write down how it ended.

        Args:
            suggestion: ``number`` of the trial, whose record says what it tries.
        """
        trial = self.book.read(suggestion["number"])
        try:
            self._run(trial)
        except Exception as error:
            (self.book.path(trial.number) / ERROR).write_text(traceback.format_exc())
            self.book.end(trial.number, "failed", first_line(next(leaves(error))))
            raise

    def _run(self, trial: Trial) -> None:
        config = trial_config(self.plan, self.book, trial)
        run = RunDir(self.book.path(trial.number))
        config = replace(config, resume=run.resolved.exists())
        checkpoint = run.newest_checkpoint()
        for step, value in sorted(trial.metric.items()):
            if checkpoint is not None and step <= checkpoint.step:
                self._report(step, value)

        def on_evaluated(step: int, evaluation: JsonDict) -> None:
            value = held_out(evaluation, self.plan.settings.metric)
            self.book.measured(trial.number, step, value)
            self._report(step, value)

        train(config, on_evaluated=on_evaluated, scoring=self.scoring)
        value = held_out(read_evaluation(run.evaluation), self.plan.settings.metric)
        self.book.measured(trial.number, config.num_steps, value)
        self.book.end(trial.number, "finished")
        self._report(config.num_steps, value)

    def _report(self, step: int, value: float | None) -> None:
        """Tell Ray Tune; it may end this process here."""
        number = math.nan if value is None else sign_of(self.plan.settings.metric) * value
        tune.report({STEP: step, OBJECTIVE: number})


def sign_of(metric: str) -> float:
    """Return -1 for metrics of which less is better, else 1."""
    return -1.0 if metric in LOWER_IS_BETTER else 1.0


def held_out(evaluation: JsonDict, metric: str) -> float | None:
    """Return the trained policies' mean of a metric; None where no prompt has a value."""
    cell = evaluation["rows"].get(NOW, {}).get(metric)
    return None if cell is None else float(cell["mean"])


def trial_config(plan: SearchPlan, book: TrialBook, trial: Trial) -> Config:
    """Return the configuration of a trial's run.

    Raises:
        ConfigError: If the values do not go together.
    """
    config = plan.config(trial.values)
    start = Path(coldstart_directory(config)).resolve()
    return replace(
        config,
        name=trial.name,
        output_dir=str(book.folder),
        coldstart=replace(config.coldstart, directory=str(start)),
    )


def trial_resources(config: Config, *, share_rewards: bool) -> PlacementGroupFactory:
    """Return the placement group of one trial: a bundle for itself, and those of its run's placement."""
    return PlacementGroupFactory(
        trial_bundles(place(replace(config, rewards={}) if share_rewards else config))
    )
