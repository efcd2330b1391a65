"""``vlcot search``: Ray Tune over any keys of a configuration; every trial is a whole GRPO run.

The records of its trials (``cluster.search.trials``) are all that a search resumes from. Ray Tune's own files lie in a
folder of their own, and a search that goes on begins a new one there.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from cluster.pools.scoring_monitor import ScoringMonitor
from cluster.record.run_files import read_as
from cluster.record.rundir import RunDir
from cluster.run.coldstart import ensure_start
from cluster.run.preflight import preflight
from cluster.run.workers import spawn_scoring
from cluster.runtime.calls import Worker, gather
from cluster.runtime.console import CONSOLE, bar, stage
from cluster.runtime.files import write_atomically
from cluster.runtime.ownership import OWNER, owned
from cluster.runtime.ray_session import ray_session
from cluster.search.report import search_table, trial_line, write_search_report
from cluster.search.searcher import RecordedSearcher, make_asha, own_values
from cluster.search.trial import TrialRunner, sign_of, trial_resources
from cluster.search.trials import RECORD, TRIALS, Trial, TrialBook, best_trial, trial_name
from configs.checks.search import check_search, starting_points
from configs.schema import Config
from configs.search import PLAN, SearchPlan, with_place
from rl.errors import ConfigError, VlcotError

TUNE = "tune"
"""Folder of Ray Tune's own files."""
RunsTrial = Callable[[Mapping[str, Any]], None]
"""Takes what the searcher handed out, and reports to Tune."""
BEST = "best"
"""The winner: a run directory that ``vlcot train``, ``eval`` and ``restore`` take."""


@dataclass(frozen=True, slots=True)
class SearchDir:
    """``<output_dir>/<name>`` of a search."""

    path: Path

    @property
    def plan(self) -> Path:
        """The whole plan."""
        return self.path / PLAN

    @property
    def book(self) -> TrialBook:
        """The trials' records."""
        return TrialBook(self.path / TRIALS)


def search(plan: SearchPlan, *, resume: bool) -> Path:
    """Run a search to its end, or go on with it, and return its directory.

    Args:
        plan: What to search.
        resume: Whether the directory holds this search already.

    Raises:
        ConfigError: For anything that can be known to be wrong before the first trial.
        OwnedError: If another process works on this search.
        VlcotError: If no trial came to an end.
    """
    base = check_search(plan)
    folder = SearchDir((Path(base.output_dir) / base.name).resolve())
    plan = with_place(plan, folder.path.parent, base.name)
    with owned(folder.path, "search"):
        for trial in folder.book.folders():
            # Who owns the search owns its trials: theirs have ended with the search before.
            (trial / OWNER).unlink(missing_ok=True)
        return _search_owned(plan, base, folder, resume=resume)


def _search_owned(plan: SearchPlan, base: Config, folder: SearchDir, *, resume: bool) -> Path:
    """Do the work of :func:`search` in a directory that no other process works in."""
    if not resume:
        _refuse_what_is_there(folder)
    elif sum(trial.state != "running" for trial in folder.book.all()) >= plan.num_trials:
        return finish(plan, folder)
    with stage("check"):
        for start in starting_points(plan):
            preflight(start)
    _quieten_tune()
    with ray_session(base):
        check_room(base, plan)
        for start in starting_points(plan):
            ensure_start(start)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.plan, plan.to_yaml())
        CONSOLE.print(describe(plan, base))
        with shared_scoring(plan, base, folder) as scoring:
            run_trials(plan, base, folder, TrialRunner(plan=plan, book=folder.book, scoring=scoring))
    return finish(plan, folder)


def run_trials(plan: SearchPlan, base: Config, folder: SearchDir, trial: RunsTrial) -> None:
    """Run every trial that has not ended.

    Args:
        plan: The search.
        base: The configuration, which says what a trial reserves.
        folder: Where the records lie.
        trial: Runs one of them, in a process of its own.
    """
    book, sign = folder.book, sign_of(plan.settings.metric)
    with _shown(plan, book) as on_change:
        searcher = RecordedSearcher(plan, book, own=own_values(plan, base), sign=sign, on_change=on_change)
        if not searcher.num_left:
            return
        shutil.rmtree(folder.path / TUNE, ignore_errors=True)
        resources = trial_resources(base, share_rewards=plan.settings.share_rewards)
        tuner = tune.Tuner(
            tune.with_resources(_trainable(trial), resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=make_asha(plan, base, book.all(), sign=sign),
                num_samples=searcher.num_left,
                max_concurrent_trials=plan.settings.max_concurrent,
            ),
            run_config=tune.RunConfig(name=TUNE, storage_path=str(folder.path), verbose=0),
        )
        tuner.fit()


def describe(plan: SearchPlan, base: Config) -> str:
    """Say what is about to be run."""
    settings, every = plan.settings, base.eval.every
    stops = f"ASHA may stop them from step {settings.grace_steps or every} on" if every else "none is stopped"
    return (
        f"{plan.num_trials} trials of {base.num_steps} steps, {settings.max_concurrent} at a time; {stops}; "
        f"sought: held-out {settings.metric}"
    )


def finish(plan: SearchPlan, folder: SearchDir) -> Path:
    """Write the winner, the table and the picture.

    Raises:
        VlcotError: If no trial came to an end.
    """
    trials = folder.book.all()
    best = best_trial(trials, sign=sign_of(plan.settings.metric))
    CONSOLE.print(search_table(plan, trials, best))
    if best is None:
        why = next((trial.error for trial in trials if trial.error), "none was measured")
        raise VlcotError(f"no trial came to an end; the first failed with: {why}")
    keep_best(folder, best)
    with stage("picture"):
        page = write_search_report(plan, trials, best, folder.path)
    CONSOLE.print(f"best: {folder.path / BEST} ({best.name}); picture: {page}")
    return folder.path


def keep_best(folder: SearchDir, best: Trial) -> None:
    """Copy the winner's run directory, with its newest checkpoint alone.

    A copy that is there may have been trained since: it stays, and another trial's is put aside.
    """
    source, place = folder.book.path(best.number), folder.path / BEST
    if (place / RECORD).exists():
        before = read_as(place / RECORD, Trial).number
        if before == best.number:
            return
        place.rename(folder.path / f"{BEST}-before-{trial_name(before)}")
    newest = RunDir(source).newest_checkpoint()
    partial = folder.path / f"{BEST}.partial"
    shutil.rmtree(partial, ignore_errors=True)

    def older(directory: str, names: list[str]) -> set[str]:
        if newest is None or Path(directory) != newest.path.parent:
            return {OWNER}
        return set(names) - {newest.path.name}

    shutil.copytree(source, partial, ignore=older)
    partial.rename(place)


def check_room(base: Config, plan: SearchPlan) -> None:
    """Refuse a cluster on which a trial would wait for its placement group for ever.

    Raises:
        ConfigError: If one trial reserves more than the cluster has.
    """
    there = ray.cluster_resources()
    wanted = trial_resources(base, share_rewards=plan.settings.share_rewards).required_resources
    for kind, amount in sorted(wanted.items()):
        if amount > there.get(kind, 0.0):
            raise ConfigError(
                f"a trial reserves {amount:g} {kind}, the cluster has {there.get(kind, 0.0):g}; lower "
                "policies.*.learner.num_ranks, rollout.num_workers or rewards.*.num_workers"
            )


@contextmanager
def shared_scoring(plan: SearchPlan, base: Config, folder: SearchDir) -> Iterator[Worker | None]:
    """Start the rewards for all trials where they are shared, and say what failed in the end."""
    if not plan.settings.share_rewards:
        yield None
        return
    with stage("start the rewards"):
        worker = spawn_scoring(ensure_start(base).with_experts(base))
        gather([worker.call("setup")], deadline_s=base.deadline_s)
    try:
        yield worker
    finally:
        ScoringMonitor(worker, folder.path).listen()


@contextmanager
def _shown(plan: SearchPlan, book: TrialBook) -> Iterator[Callable[[Trial], None]]:
    """Show a bar over all trials, and a line whenever one was measured or has ended."""
    num_done = sum(trial.state != "running" for trial in book.all())
    with bar("trials", plan.num_trials) as show:
        show(num_done)

        def on_change(trial: Trial) -> None:
            nonlocal num_done
            num_done += trial.state != "running"
            show(num_done)
            CONSOLE.print(trial_line(plan, trial), soft_wrap=True)

        yield on_change


def _quieten_tune() -> None:
    """Keep Tune from what it would do by itself; it reads its settings from the environment."""
    os.environ |= {
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # move every trial's process to where no relative path is right
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # take Ctrl-C for the wish to end well
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # log every result in three formats of its own
        "RAY_AIR_NEW_OUTPUT": "0",  # print tables between ours
    }
    # Its log warns of every half second, misses the files switched off above, and has a traceback a failed trial,
    # which is shown as one line and kept in the trial's folder.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _trainable(trial: RunsTrial) -> Callable[[dict[str, Any]], None]:
    """Ray Tune wants a plain function of one argument."""

    def run(config: dict[str, Any]) -> None:
        trial(config)

    return run


def _refuse_what_is_there(folder: SearchDir) -> None:
    if folder.plan.exists():
        raise ConfigError(
            f"{folder.path} holds a search already; go on with vlcot search {folder.path}, or choose another name="
        )
    if RunDir(folder.path).resolved.exists():
        raise ConfigError(f"{folder.path} holds a run; choose another name=")
