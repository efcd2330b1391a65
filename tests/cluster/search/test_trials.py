"""Ray Tune around trials: placement groups, early stopping, and what becomes of trials that fail or die."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.util import get_current_placement_group

from cluster.runtime.calls import gather
from cluster.runtime.spawn import spawn
from cluster.search.searcher import OBJECTIVE, STEP
from cluster.search.trials import TrialBook
from configs.checks.search import check_search
from configs.search import load_plan
from rl.errors import LearnerError

pytestmark = pytest.mark.ray
KEY = "policies.text.learner.learning_rate"
FINE, WORSE, FAILS, DIES = 1e-4, 1e-5, 2e-5, 3e-5


class Child:
    """What a trial spawns; it spawns one of its own, as the scoring actor does."""

    def groups(self, depth: int) -> list[str]:
        """Return the placement groups of this actor and of those below it."""
        group = get_current_placement_group()
        mine = [group.id.hex() if group else ""]
        if not depth:
            return mine
        below = spawn(Child, "grandchild", num_cpus=0.05, kwargs={})
        (theirs,) = gather([below.call("groups", depth - 1)], deadline_s=300)
        return mine + theirs


@dataclass(frozen=True)
class SmallTrial:
    """Reports what its value deserves, without a run."""

    book: TrialBook

    def __call__(self, suggestion: Mapping[str, Any]) -> None:
        book = self.book
        trial = book.read(suggestion["number"])
        value = trial.values[KEY]
        if value == DIES:
            os._exit(1)
        if value == FAILS:
            book.end(trial.number, "failed", "no learner")
            raise LearnerError("no learner")
        child = spawn(Child, "child", num_cpus=0.05, kwargs={})
        (groups,) = gather([child.call("groups", 1)], deadline_s=300)
        group = get_current_placement_group()
        assert group is not None
        (book.path(trial.number) / "groups").write_text(" ".join([group.id.hex(), *groups]))
        for step in (1, 2):
            book.measured(trial.number, step, value)
            if step == 2:
                book.end(trial.number, "finished")
            tune.report({STEP: step, OBJECTIVE: value})


@pytest.mark.usefixtures("ray_cluster")
def test_trials_end_as_they_deserve_and_stay_in_their_groups(tmp_path: Path) -> None:
    from cluster.search.search import (
        SearchDir,
        run_trials,
    )  # heavy, and this module is loaded by every actor of the test

    values = [FINE, WORSE, FAILS, DIES]
    space = [
        f"search.space.{KEY}={{grid: {values}}}",
        "search.space.policies.image.learner.learning_rate={grid: [1e-5]}",
    ]
    plan = load_plan("demo", [f"output_dir={tmp_path}", "num_steps=2", "eval.every=1", *space])
    folder = SearchDir(tmp_path / "s")
    run_trials(plan, check_search(plan), folder, SmallTrial(folder.book))
    trials = {trial.values[KEY]: trial for trial in folder.book.all()}
    assert {value: trial.state for value, trial in trials.items()} == {
        FINE: "finished",
        WORSE: "stopped",
        FAILS: "failed",
        DIES: "failed",
    }
    assert trials[FAILS].error == "no learner"
    assert trials[DIES].error.startswith("its process ended without a word")
    assert trials[WORSE].metric == {1: WORSE}
    groups = [(folder.book.path(trials[v].number) / "groups").read_text().split() for v in (FINE, WORSE)]
    assert all(len(set(found)) == 1 and len(found) == 3 for found in groups), "itself, child, grandchild"
    assert groups[0][0] != groups[1][0]
    assert ray.is_initialized()
