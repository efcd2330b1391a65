"""Training run, from the first check to the last line; ``vlcot train``, ``eval`` and ``coldstart``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.pools.collector import GroupCollector, sampling_ahead
from cluster.pools.group_calls import GroupCalls
from cluster.pools.learner_group import MODEL
from cluster.pools.learners import LearnerGroups
from cluster.pools.scoring_monitor import MonitoredCollector
from cluster.record.observer import Observer
from cluster.record.rundir import RunDir
from cluster.record.sinks import ConsoleSink, JsonlSink, MultiSink
from cluster.record.tables import terminal_tables
from cluster.record.trackers.base import Trackers, tracking
from cluster.report.model_card import write_model_cards
from cluster.report.page import report_line
from cluster.run.alarms import AlarmWatch, alarm_watch
from cluster.run.attempt import (
    Attempt,
    InterruptibleCollector,
    OnEvaluated,
    StepPublisher,
    StepRecorder,
    load_learners,
)
from cluster.run.coldstart import ensure_start, keep_start
from cluster.run.preflight import preflight, say_idle
from cluster.run.remote_copy import RemoteCopy, open_storage
from cluster.run.repair import RolloutRepair
from cluster.run.restarts import surviving
from cluster.run.session import Session, open_session
from cluster.runtime.calls import Worker
from cluster.runtime.console import CONSOLE, stage
from cluster.runtime.files import as_disk_full
from cluster.runtime.interrupts import INTERRUPTS, Terminated
from cluster.runtime.machine import check_start
from cluster.runtime.ownership import owned
from cluster.runtime.pool_gauges import RunGauges
from cluster.runtime.ray_session import ray_session
from configs.load import to_yaml
from configs.schema import Config
from rewards.load import reward_terms
from rl.ahead import DataPosition
from rl.errors import AlarmError, DiskFullError
from rl.loop import train as train_loop
from rl.ports import Collector, Ports, Sink
from rl.types import JsonDict


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training run, over all its attempts (``cluster.run.restarts``)."""

    config: Config
    run: RunDir
    remote_copy: RemoteCopy
    observer: Observer
    trackers: Trackers
    on_evaluated: OnEvaluated | None
    scoring: Worker | None

    def attempt(self) -> JsonDict:
        """Go on from the newest checkpoint to the end, and return the last evaluation."""
        config, run = self.config, self.run
        with open_session(config, learn=True, observer=self.observer, scoring=self.scoring) as session:
            run.create(resolved_yaml=to_yaml(config))
            keep_start(config)
            checkpoint = run.newest_checkpoint()
            if checkpoint is not None:
                load_learners(session, checkpoint)
            first = checkpoint.step if checkpoint else 0
            metrics_file = JsonlSink(run.metrics)
            metrics_file.truncate_after(first - 1)
            self.observer.resumed_at(first)
            self.trackers.begin(first)
            session.evaluator.read(run)
            if first == 0:
                session.evaluator.baselines()
                session.evaluator.policies("start", step=0)
                session.evaluator.write(run)
            if session.monitor is not None:
                session.monitor.forget()
            data = checkpoint.data if checkpoint else DataPosition()
            collector = self._collector(session, first, data)
            watch = self._watch(session, metrics_file)
            steps = Attempt(
                session=session,
                collector=collector,
                watch=watch,
                remote_copy=self.remote_copy,
                step=first,
                data=data,
                on_evaluated=self.on_evaluated,
            )
            try:
                with INTERRUPTS.held():
                    train_loop(
                        config,
                        start=first,
                        ports=_ports(session, collector, watch),
                        terms=collector.terms,
                        after_step=steps.after_step,
                    )
            except KeyboardInterrupt:
                if isinstance(INTERRUPTS.cause, Terminated):
                    steps.save_before_the_end()
                raise
            except AlarmError:
                CONSOLE.print(report_line(run.path))
                self.remote_copy.push()
                raise
            finally:
                collector.calls.close()
            return steps.measure(max(first, config.num_steps))

    def _collector(self, session: Session, step: int, data: DataPosition) -> GroupCollector:
        config, learners = self.config, session.workers.learners
        return GroupCollector(
            config=config,
            terms=reward_terms(config),
            versions=lambda: {name: group.version for name, group in learners.items()},
            make_prompt=session.prompts.train,
            calls=GroupCalls(
                session.runners,
                deadline_s=config.deadline_s,
                repair=RolloutRepair(session) if config.on_lost_worker == "replace" else None,
            ),
            observe=StepRecorder(session=session, trackers=self.trackers),
            ahead=sampling_ahead(config, step=step, start=data),
        )

    def _watch(self, session: Session, metrics_file: JsonlSink) -> AlarmWatch:
        shown = ConsoleSink(CONSOLE, self.config.num_steps)
        return alarm_watch(
            self.config,
            session.workers.picture_metrics,
            self.run,
            steps=MultiSink(
                [metrics_file], [self.observer, self.trackers, RunGauges(run=self.config.name), shown]
            ),
            evaluations=MultiSink([metrics_file], [self.trackers]),
        )


def _ports(session: Session, groups: GroupCollector, sink: Sink) -> Ports:
    """Return what the loop talks to."""
    collector: Collector = groups
    learners = LearnerGroups(
        groups=session.workers.learners, deadline_s=session.config.deadline_s, gpu_sharing=session.gpu_sharing
    )
    if session.monitor is not None:
        collector = MonitoredCollector(collector, session.monitor)
    return Ports(
        collector=InterruptibleCollector(collector),
        learners=learners,
        publisher=StepPublisher(session.publisher, groups, is_ordered=session.config.deterministic),
        sink=sink,
    )


def train(config: Config, *, on_evaluated: OnEvaluated | None = None, scoring: Worker | None = None) -> Path:
    """Run the whole of it and return the run directory.

    Args:
        config: The run.
        on_evaluated: Told of every evaluation before the last: steps done, and the content of ``eval.json``.
        scoring: A scoring actor shared with other runs; None starts one.

    Raises:
        OwnedError: If another process trains or evaluates there.
        DiskFullError: If something does not fit; the newest checkpoint stays, a half one is removed.
    """
    run = RunDir(Path(config.output_dir) / config.name)
    with owned(run.path, "train"):
        try:
            _train_owned(config, run, on_evaluated, scoring)
        except Exception as error:
            if (full := as_disk_full(error, run.path, "the run")) is None:
                raise
            run.remove_half_checkpoints()
            raise DiskFullError(f"{full}, then resume=true goes on from the newest checkpoint") from error
    return run.path


def _train_owned(
    config: Config, run: RunDir, on_evaluated: OnEvaluated | None, scoring: Worker | None
) -> None:
    """Do the work of :func:`train` in a directory that no other process works in."""
    remote_copy = RemoteCopy(config, run, open_storage(config.storage_path))
    remote_copy.fetch()
    run.check(resume=config.resume)
    with stage("check"):
        preflight(config)
        check_start(config)
    say_idle(config)
    observer = Observer(config, run)
    with observer.watching(), tracking(config, run) as trackers:
        training = Training(
            config=config,
            run=run,
            remote_copy=remote_copy,
            observer=observer,
            trackers=trackers,
            on_evaluated=on_evaluated,
            scoring=scoring,
        )
        summary = surviving(config, run, training.attempt)
    CONSOLE.print(terminal_tables(summary))
    CONSOLE.print(report_line(run.path))
    if (newest := run.newest_checkpoint()) is not None:
        write_model_cards(config, newest.path, summary, model_folder=MODEL)
    remote_copy.push()


def evaluate(config: Config) -> JsonDict:
    """Measure a run's newest weights on the held-out prompts, beside what was measured before.

    Args:
        config: The run, or a configuration whose policies have sources of their own.

    Returns:
        The content of ``eval.json``.

    Raises:
        OwnedError: If another process trains or evaluates there.
    """
    run = RunDir(Path(config.output_dir) / config.name)
    with owned(run.path, "evaluate"), open_session(config, learn=False) as session:
        session.evaluator.read(session.run)
        session.evaluator.baselines()
        newest = session.run.newest_checkpoint()
        session.evaluator.policies("now", step=newest.step if newest else 0)
        summary = session.evaluator.write(session.run)
    CONSOLE.print(terminal_tables(summary))
    return summary


def coldstart(config: Config) -> Path:
    """Make the starting point, or say where it lies."""
    preflight(config)
    check_start(config)
    with ray_session(config):
        return ensure_start(config).directory
