"""``vlcot train``, ``eval`` and ``coldstart``: what a user starts, from the first check to the last line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.pools.learners import LearnerGroups
from cluster.pools.scoring_monitor import MonitoredCollector
from cluster.record.observer import Observer
from cluster.record.rundir import RunDir
from cluster.record.sinks import ConsoleSink, JsonlSink, MultiSink
from cluster.record.tables import eval_table
from cluster.record.trackers.base import Trackers, tracking
from cluster.report.page import report_line
from cluster.run.alarms import watch_judges
from cluster.run.coldstart import ensure_start
from cluster.run.mirror import Mirror, open_mirror
from cluster.run.preflight import preflight
from cluster.run.restarts import surviving
from cluster.run.session import OnEvaluated, open_session
from cluster.runtime.calls import Worker
from cluster.runtime.console import CONSOLE, stage
from cluster.runtime.pool_gauges import RunGauges
from cluster.runtime.ray_session import ray_session
from configs.load import to_yaml
from configs.schema import Config
from rl.errors import AlarmError
from rl.loop import train as train_loop
from rl.ports import Collector, Ports
from rl.types import JsonDict


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training run, over all its attempts (``cluster.run.restarts``)."""

    config: Config
    run: RunDir
    mirror: Mirror
    observer: Observer
    trackers: Trackers
    on_evaluated: OnEvaluated | None = None
    scoring: Worker | None = None

    def attempt(self) -> JsonDict:
        """Go on from the newest checkpoint to the end, and return the last evaluation."""
        config, run = self.config, self.run
        with open_session(config, learn=True, observer=self.observer, scoring=self.scoring) as session:
            session.on_evaluated = self.on_evaluated
            run.create(resolved_yaml=to_yaml(config))
            session.mirror = self.mirror
            sink = JsonlSink(run.metrics)
            session.restore()
            sink.truncate_after(session.step - 1)
            self.observer.resumed_at(session.step)
            self.trackers.begin(session.step)
            session.trackers = self.trackers
            session.evaluator.read(run)
            if session.step == 0:
                session.evaluator.bicubic()
                session.evaluator.policies("coldstart", step=0)
                session.evaluator.write(run)
            gauges = RunGauges(run=config.name)
            steps = MultiSink(
                [sink], [self.observer, self.trackers, gauges, ConsoleSink(CONSOLE, config.num_steps)]
            )
            session.watch = watch_judges(
                config,
                session.workers.judges,
                run,
                steps=steps,
                evaluations=MultiSink([sink], [self.trackers]),
            )
            collector: Collector = session.collector
            if session.monitor is not None:
                collector = MonitoredCollector(session.collector, session.monitor)
            ports = Ports(
                collector=collector,
                learners=LearnerGroups(
                    groups=session.workers.learners,
                    deadline_s=config.deadline_s,
                    gpu_sharing=session.gpu_sharing,
                ),
                publisher=session.publisher,
                sink=session.watch,
            )
            try:
                train_loop(
                    config,
                    start=session.step,
                    ports=ports,
                    terms=session.collector.terms,
                    after_step=session.after_step,
                )
            except AlarmError:
                CONSOLE.print(report_line(run.path))
                self.mirror.push()
                raise
            return session.measure(session.step)


def train(config: Config, *, on_evaluated: OnEvaluated | None = None, scoring: Worker | None = None) -> Path:
    """Run the whole of it and return the run directory.

    Args:
        config: The run.
        on_evaluated: Told of every evaluation before the last: steps done, and the content of ``eval.json``.
        scoring: A scoring actor shared with other runs; None starts one.
    """
    run = RunDir(Path(config.output_dir) / config.name)
    mirror = open_mirror(config, run)
    mirror.fetch()
    run.check(resume=config.resume)
    with stage("check"):
        preflight(config)
    observer = Observer(config, run)
    with observer.watching(), tracking(config, run) as trackers:
        training = Training(
            config=config,
            run=run,
            mirror=mirror,
            observer=observer,
            trackers=trackers,
            on_evaluated=on_evaluated,
            scoring=scoring,
        )
        summary = surviving(config, run, training.attempt)
    CONSOLE.print(eval_table(summary))
    CONSOLE.print(report_line(run.path))
    mirror.push()
    return run.path


def evaluate(config: Config) -> JsonDict:
    """Measure a run's newest weights on the held-out prompts, beside what was measured before.

    Args:
        config: The run, or a configuration whose policies have sources of their own.

    Returns:
        The content of ``eval.json``.
    """
    with open_session(config, learn=False) as session:
        session.run.path.mkdir(parents=True, exist_ok=True)
        session.evaluator.read(session.run)
        session.evaluator.bicubic()
        newest = session.run.newest_checkpoint()
        session.evaluator.policies("grpo", step=newest.step if newest else 0)
        summary = session.evaluator.write(session.run)
    CONSOLE.print(eval_table(summary))
    return summary


def coldstart(config: Config) -> Path:
    """Make the starting point, or say where it lies."""
    preflight(config)
    with ray_session(config):
        return ensure_start(config).directory
