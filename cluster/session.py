"""The life of a run: cold start, workers, loop, checkpoints, evaluation, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from actors.coldstart import prompt_source
from cluster.check import preflight
from cluster.coldstart import Start, ensure_start, has_start, text_context
from cluster.collector import GroupCollector
from cluster.crew import Crew, spawn_crew, spawn_runners
from cluster.evaluation import Evaluator, resolve_pictures, score_of
from cluster.failures import MonitoredCollector, ScoringMonitor
from cluster.learners import LearnerGroups, WeightPublisher
from cluster.observer import Observer
from cluster.pool_gauges import RunGauges
from cluster.progress import CONSOLE, stage
from cluster.raysession import ray_session
from cluster.recorder import ChainRecorder
from cluster.report import write_report
from cluster.rundir import RunDir
from cluster.runner import Job
from cluster.selection import chains_to_record, most_recorded
from cluster.tables import eval_table
from cluster.trackers import Trackers, tracking
from cluster.tracking import ConsoleSink, JsonlSink, MultiSink
from cluster.watch import JudgeWatch, watch_judges
from configs.load import to_yaml
from configs.schema import Config
from rewards.load import reward_terms
from rl.errors import AlarmError, ConfigError
from rl.loop import train as train_loop
from rl.ports import Ports
from rl.spans import span
from rl.types import JsonDict, ScoredGroup

MODEL = "model"
"""Folder of a policy in a checkpoint that its plain library loads."""


@dataclass(slots=True)
class Session:
    """One run while it lasts."""

    config: Config
    run: RunDir
    crew: Crew
    collector: GroupCollector
    publisher: WeightPublisher
    evaluator: Evaluator
    monitor: ScoringMonitor
    watch: JudgeWatch | None = None
    """None where nothing is trained."""
    trackers: Trackers | None = None
    """As ``watch``."""
    step: int = 0

    def restore(self) -> None:
        """Load the newest checkpoint into the learners and the data position."""
        checkpoint = self.run.newest_checkpoint()
        if checkpoint is None:
            return
        for group in self.crew.learners.values():
            group.wait_all("load", checkpoint.path / group.policy, "learner")
            group.version = checkpoint.versions[group.policy]
        self.step, self.collector.position = checkpoint.step, checkpoint.position

    @span("save")
    def save(self) -> None:
        """Write a checkpoint: the learners' state, and both policies as their plain libraries load them.

        It counts only when all of it is on disk.
        """
        path = self.run.checkpoint_path(self.step)
        for group in self.crew.learners.values():
            group.wait_all("save", path / group.policy, "learner")
            group.wait_all("export", path / group.policy / MODEL)
        versions = {name: group.version for name, group in self.crew.learners.items()}
        self.run.finish_checkpoint(
            self.step, self.collector.position, versions, keep=self.config.keep_checkpoints
        )

    def after_step(self, step: int) -> None:
        """Checkpoint and evaluate when due, and stop where an alarm says so."""
        self.step = step
        is_saved = step % self.config.save_every == 0 or step == self.config.num_steps
        if is_saved:
            self.save()
        if self.config.eval.every and step % self.config.eval.every == 0 and step < self.config.num_steps:
            self.measure(step)
            self.publisher.publish_and_prove()
        if self.watch is not None and self.watch.must_stop:
            if not is_saved:
                self.save()
            self.watch.stop()

    @span("evaluate")
    def measure(self, step: int) -> JsonDict:
        """Evaluate the trained policies, with their moving averages where they keep one, and write it down.

        The rollout workers are left with what was evaluated.
        """
        self.publisher.publish_and_prove(averaged=True)
        self.evaluator.policies("grpo", step=step)
        summary = self.evaluator.write(self.run)
        if self.watch is not None:
            self.watch.evaluated(step - 1, summary)
        return summary

    @span("record chains")
    def observe(self, jobs: Sequence[Job], groups: Sequence[ScoredGroup]) -> None:
        """Say what rewards failed, and record some chains of the step as they were scored, before any filter."""
        self.monitor.listen()
        folders = []
        for number, index in chains_to_record(groups, tuple(self.config.rewards)):
            job, group = jobs[number], groups[number]
            pictures = resolve_pictures(group.chains[index], self.config)
            scores = {name: score_of(group, name, index) for name in self.config.rewards}
            folder = self.evaluator.recorder.record(
                self.step, "train", "train", group.chains[index], pictures, job.prompt, scores
            )
            folders += [] if folder is None else [folder]
        if self.trackers is not None:
            self.trackers.chains(self.step, folders)


@contextmanager
def open_session(config: Config, *, learn: bool, observer: Observer | None = None) -> Iterator[Session]:
    """Start Ray, make or reuse the starting point, spawn everything; end it all on the way out.

    Args:
        config: The run.
        learn: Whether to start learners. Without them the workers serve the run's newest weights.
        observer: Whom the workers send their signs of life.

    Raises:
        ConfigError: If there is nothing to serve.
    """
    run = RunDir(Path(config.output_dir) / config.name)
    if not learn and run.newest_checkpoint() is None and not has_start(config):
        raise ConfigError(f"{run.path} holds no checkpoint, and there is no cold start; vlcot train first")
    with ray_session(config):
        with span("cold start"):
            start = find_weights(config, run, learn=learn)
        with nullcontext() if observer is None else observer.listening():
            session = assemble(config, run, start, learn=learn)
            try:
                yield session
            finally:
                session.monitor.listen()


def find_weights(config: Config, run: RunDir, *, learn: bool) -> Start:
    """Return what the workers load: the starting point, or without learners the run's newest checkpoint.

    The cold start is made where it is wanted and not there. A checkpoint needs it for the learned expert only.
    """
    checkpoint = None if learn else run.newest_checkpoint()
    if checkpoint is None:
        return ensure_start(config)
    sources = {name: checkpoint.path / name / MODEL for name in config.policies}
    if not config.rewards:
        return Start(directory=run.path, sources=sources)
    return replace(ensure_start(config), sources=sources)


def assemble(config: Config, run: RunDir, start: Start, *, learn: bool) -> Session:
    """Spawn the workers and wire the ports."""
    source = prompt_source(config)
    with stage("start the workers"):
        crew = spawn_crew(start.with_experts(config), start.sources, learn=learn)
        runners = spawn_runners(config, text_context(config, start.sources), crew.pools)
    weights = {name: reward.weight for name, reward in config.rewards.items()}
    evaluator = Evaluator(
        config=config,
        prompts=source.held_out(config.eval.num_prompts),
        runners=runners,
        judges=crew.judges,
        recorder=ChainRecorder(run.path, weights=weights, max_chains_per_step=most_recorded(config)),
    )
    collector = GroupCollector(
        config=config,
        terms=reward_terms(config),
        versions=lambda: {name: group.version for name, group in crew.learners.items()},
        make_prompt=source.train,
        runners=runners,
        observe=_nothing,
    )
    session = Session(
        config=config,
        run=run,
        crew=crew,
        collector=collector,
        publisher=WeightPublisher(config=config, learners=crew.learners, rollouts=crew.rollouts),
        evaluator=evaluator,
        monitor=ScoringMonitor(crew.pools.scoring, run.path),
    )
    collector.observe = session.observe
    return session


def train(config: Config) -> Path:
    """Run the whole of it and return the run directory."""
    run = RunDir(Path(config.output_dir) / config.name)
    run.check(resume=config.resume)
    with stage("check"):
        preflight(config)
    observer = Observer(config, run)
    with (
        observer.watching(),
        tracking(config, run) as trackers,
        open_session(config, learn=True, observer=observer) as session,
    ):
        run.create(resolved_yaml=to_yaml(config))
        sink = JsonlSink(run.metrics)
        session.restore()
        sink.truncate_after(session.step - 1)
        observer.resumed_at(session.step)
        trackers.begin(session.step)
        session.trackers = trackers
        session.evaluator.read(run)
        if session.step == 0:
            session.evaluator.bicubic()
            session.evaluator.policies("coldstart", step=0)
            session.evaluator.write(run)
        gauges = RunGauges(run=config.name)
        steps = MultiSink([sink], [observer, trackers, gauges, ConsoleSink(CONSOLE, config.num_steps)])
        session.watch = watch_judges(
            config, session.crew.judges, run, steps=steps, evaluations=MultiSink([sink], [trackers])
        )
        ports = Ports(
            collector=MonitoredCollector(session.collector, session.monitor),
            learners=LearnerGroups(groups=session.crew.learners, deadline_s=config.deadline_s),
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
            CONSOLE.print(f"report: {write_report(run.path)}")
            raise
        summary = session.measure(session.step)
    CONSOLE.print(eval_table(summary))
    CONSOLE.print(f"report: {write_report(run.path)}")
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


def _nothing(jobs: Sequence[Job], groups: Sequence[ScoredGroup]) -> None:
    """Observe nothing (before the session is wired)."""
