"""Attempt at a training run: what happens around its steps (chains recorded, checkpoints, evaluations, alarms)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from cluster.pools.chain_runner import GroupRequest
from cluster.pools.collector import GroupCollector
from cluster.record.recorder import chains_to_record
from cluster.record.rundir import Checkpoint
from cluster.record.trackers.base import Trackers
from cluster.run.alarms import AlarmWatch
from cluster.run.evaluation import resolve_pictures, score_of
from cluster.run.remote_copy import RemoteCopy
from cluster.run.session import Session
from cluster.runtime.console import CONSOLE
from cluster.runtime.files import as_disk_full, size_of
from cluster.runtime.interrupts import INTERRUPTS
from rl.ahead import DataPosition
from rl.errors import VlcotError
from rl.ports import Collector, Publisher
from rl.spans import span
from rl.types import JsonDict, Metrics, ScoredGroup

T = TypeVar("T")
OnEvaluated = Callable[[int, JsonDict], None]
"""Takes the steps done and the content of ``eval.json``."""


@dataclass(frozen=True, slots=True)
class InterruptibleCollector:
    """Lets signals through while chains are sampled: then the learners are as the last step left them."""

    collector: Collector

    def next(self) -> tuple[Sequence[ScoredGroup], Metrics]:
        """Collect."""
        with INTERRUPTS.let_through():
            return self.collector.next()


@dataclass(frozen=True, slots=True)
class StepPublisher:
    """Publishes after an update, while groups of later steps may be sampled."""

    publisher: Publisher
    collector: GroupCollector
    is_ordered: bool
    """Publish when nothing is being sampled: which weights write what then depends on the order of steps alone."""

    def publish(self) -> None:
        """Publish; rollout workers that were lost while the learners worked are replaced first."""
        if self.is_ordered:
            self.collector.settle()
        self._mended(self.publisher.publish)

    def prove(self) -> Metrics:
        """Wait for the proof; rollout workers that were lost while they wrote for it are replaced, and prove theirs."""
        return self._mended(self.publisher.prove)

    def _mended(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except (VlcotError, BaseExceptionGroup) as error:
            self.collector.calls.mend(error)
        return act()


@dataclass(slots=True, kw_only=True)
class Attempt:
    """What follows the steps of one attempt.

    It keeps the last finished step, which a checkpoint is of: the collector runs ahead of it within a step.
    """

    session: Session
    collector: GroupCollector
    watch: AlarmWatch
    remote_copy: RemoteCopy
    on_evaluated: OnEvaluated | None = None
    """Told of every evaluation before the last."""
    step: int
    """Steps done."""
    data: DataPosition
    """Where the data are after them."""

    def after_step(self, step: int) -> None:
        """Checkpoint and evaluate when due, and stop where an alarm says so.

        Args:
            step: Steps done.
        """
        config = self.session.config
        self.step, self.data = step, self.collector.data_position
        is_saved = step % config.save_every == 0 or step == config.num_steps
        if is_saved:
            self.save()
        if config.eval.every and step % config.eval.every == 0 and step < config.num_steps:
            with INTERRUPTS.let_through():
                self.collector.settle()
                summary = self.measure(step)
            if self.session.monitor is not None:
                self.session.monitor.forget()
            self.session.publisher.publish()
            if self.on_evaluated is not None:
                self.on_evaluated(step, summary)
        if self.watch.must_stop:
            if not is_saved:
                self.save()
            self.watch.stop()

    @span("save")
    def save(self) -> None:
        """Write a checkpoint: the learners' state, and both policies as their plain libraries load them.

        It counts only when all of it is on disk.

        Raises:
            DiskFullError: If it does not fit.
        """
        session, learners, run = self.session, self.session.workers.learners, self.session.run
        path = run.begin_checkpoint(self.step)
        session.gpu_sharing.wake_all("learner")
        versions = {name: group.version for name, group in learners.items()}
        try:
            for name, group in learners.items():
                group.save(path / name)
            keep = session.config.keep_checkpoints
            run.finish_checkpoint(self.step, self.data, versions, keep=keep)
        except Exception as error:
            before = run.newest_checkpoint()
            num_bytes = size_of(before.path if before else path)
            what = f"the checkpoint of step {self.step}"
            if (full := as_disk_full(error, path.parent, what, num_bytes=num_bytes)) is not None:
                raise full from error
            raise
        session.gpu_sharing.wake_all("rollout")
        self.remote_copy.push()

    def save_before_the_end(self) -> None:
        """Write a checkpoint of the last finished step, if there is none, though a step is under way.

        Learners are not asked for anything while chains are sampled, which is when this is called.
        """
        newest = self.session.run.newest_checkpoint()
        if self.step > (newest.step if newest else 0):
            self.session.gpu_sharing.end_rollouts()
            self.save()
        with suppress(OSError):  # the terminal may be gone
            saved = f"the checkpoint of step {self.step} is saved" if self.step else "no step was finished"
            CONSOLE.print(f"{INTERRUPTS.cause}: {saved}; resume=true goes on from there", soft_wrap=True)

    @span("evaluate")
    def measure(self, step: int) -> JsonDict:
        """Evaluate the trained policies, with their moving averages where they keep one, and write it down.

        The rollout workers are left with what was evaluated.
        """
        session = self.session
        session.publisher.publish(averaged=True)
        session.publisher.finish_proofs()
        session.evaluator.policies("now", step=step)
        summary = session.evaluator.write(session.run)
        self.watch.evaluated(step - 1, summary)
        return summary


def load_learners(session: Session, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into the learners."""
    session.gpu_sharing.wake_all("learner")
    for name, group in session.workers.learners.items():
        group.load(checkpoint.path / name, checkpoint.versions[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecorder:
    """Records some chains of a step as they were scored, before any filter; shows them to the trackers."""

    session: Session
    trackers: Trackers

    @span("record chains")
    def __call__(self, step: int, requests: Sequence[GroupRequest], groups: Sequence[ScoredGroup]) -> None:
        """Record chains of the step after ``step`` others."""
        config, recorder = self.session.config, self.session.evaluator.recorder
        folders = []
        for number, index in chains_to_record(groups, tuple(config.rewards)):
            request, group = requests[number], groups[number]
            pictures = resolve_pictures(group.chains[index], config)
            scores = {name: score_of(group, name, index) for name in config.rewards}
            folder = recorder.record(
                step, "train", "train", group.chains[index], pictures, request.prompt, scores
            )
            folders += [] if folder is None else [folder]
        self.trackers.chains(step, folders)
