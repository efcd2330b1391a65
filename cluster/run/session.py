"""The life of a run: cold start, workers, loop, checkpoints, evaluation, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.pools.chain_runner import GroupRequest, final_picture_block
from cluster.pools.collector import GroupCollector
from cluster.pools.gpu_sharing import GpuSharing
from cluster.pools.learners import WeightPublisher
from cluster.pools.scoring_monitor import ScoringMonitor
from cluster.record.observer import Observer
from cluster.record.recorder import ChainRecorder
from cluster.record.rundir import RunDir
from cluster.record.selection import chains_to_record, most_recorded
from cluster.record.trackers.base import Trackers
from cluster.run.alarms import JudgeWatch
from cluster.run.coldstart import Start, ensure_start, has_start, text_context
from cluster.run.evaluation import Evaluator, resolve_pictures, score_of
from cluster.run.mirror import Mirror
from cluster.run.repair import RolloutRepair
from cluster.run.restarts import losses_named
from cluster.run.workers import RunWorkers, spawn_runners, spawn_workers
from cluster.runtime.calls import Worker
from cluster.runtime.console import stage
from cluster.runtime.hosts import check_shared, locate
from cluster.runtime.ray_session import ray_session
from configs.schema import Config
from rewards.load import reward_terms
from rl.data.source import prompt_source
from rl.errors import ConfigError
from rl.spans import span
from rl.types import JsonDict, ScoredGroup

OnEvaluated = Callable[[int, JsonDict], None]
"""Takes the steps done and the content of ``eval.json``."""
MODEL = "model"
"""Folder of a policy in a checkpoint that its plain library loads."""


@dataclass(slots=True)
class Session:
    """One run while it lasts."""

    config: Config
    run: RunDir
    workers: RunWorkers
    collector: GroupCollector
    publisher: WeightPublisher
    evaluator: Evaluator
    monitor: ScoringMonitor | None
    """None where the rewards are shared: who shares them listens."""
    gpu_sharing: GpuSharing
    mirror: Mirror | None = None
    """Where a training run is copied to."""
    watch: JudgeWatch | None = None
    """None where nothing is trained."""
    trackers: Trackers | None = None
    """As ``watch``."""
    step: int = 0
    on_evaluated: OnEvaluated | None = None
    """Told of every evaluation before the last."""

    def restore(self) -> None:
        """Load the newest checkpoint into the learners and the data position."""
        checkpoint = self.run.newest_checkpoint()
        if checkpoint is None:
            return
        self.gpu_sharing.wake_all("learner")
        for group in self.workers.learners.values():
            group.wait_all("load", checkpoint.path / group.policy, "learner")
            group.version = checkpoint.versions[group.policy]
        self.step, self.collector.position = checkpoint.step, checkpoint.position

    @span("save")
    def save(self) -> None:
        """Write a checkpoint: the learners' state, and both policies as their plain libraries load them.

        It counts only when all of it is on disk.
        """
        path = self.run.checkpoint_path(self.step)
        self.gpu_sharing.wake_all("learner")
        for group in self.workers.learners.values():
            group.wait_all("save", path / group.policy, "learner")
            group.wait_all("export", path / group.policy / MODEL)
        self.gpu_sharing.wake_all("rollout")
        versions = {name: group.version for name, group in self.workers.learners.items()}
        self.run.finish_checkpoint(
            self.step, self.collector.position, versions, keep=self.config.keep_checkpoints
        )
        if self.mirror is not None:
            self.mirror.push()

    def after_step(self, step: int) -> None:
        """Checkpoint and evaluate when due, and stop where an alarm says so."""
        self.step = step
        is_saved = step % self.config.save_every == 0 or step == self.config.num_steps
        if is_saved:
            self.save()
        if self.config.eval.every and step % self.config.eval.every == 0 and step < self.config.num_steps:
            summary = self.measure(step)
            self.publisher.publish_and_prove()
            if self.on_evaluated is not None:
                self.on_evaluated(step, summary)
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
    def observe(self, requests: Sequence[GroupRequest], groups: Sequence[ScoredGroup]) -> None:
        """Record some chains of the step as they were scored, before any filter."""
        folders = []
        for number, index in chains_to_record(groups, tuple(self.config.rewards)):
            request, group = requests[number], groups[number]
            pictures = resolve_pictures(group.chains[index], self.config)
            scores = {name: score_of(group, name, index) for name in self.config.rewards}
            folder = self.evaluator.recorder.record(
                self.step, "train", "train", group.chains[index], pictures, request.prompt, scores
            )
            folders += [] if folder is None else [folder]
        if self.trackers is not None:
            self.trackers.chains(self.step, folders)

    def listen(self) -> None:
        """Say what rewards failed."""
        if self.monitor is not None:
            self.monitor.listen()


@contextmanager
def open_session(
    config: Config, *, learn: bool, observer: Observer | None = None, scoring: Worker | None = None
) -> Iterator[Session]:
    """Start Ray, make or reuse the starting point, spawn everything; end it all on the way out.

    Args:
        config: The run.
        learn: Whether to start learners. Without them the workers serve the run's newest weights.
        observer: Whom the workers send their signs of life.
        scoring: A scoring actor shared with other runs; None starts one.

    Raises:
        ConfigError: If there is nothing to serve.
        WorkerLostError: If a worker or its host is lost meanwhile; names both.
    """
    run = RunDir(Path(config.output_dir) / config.name)
    if not learn and run.newest_checkpoint() is None and not has_start(config):
        raise ConfigError(f"{run.path} holds no checkpoint, and there is no cold start; vlcot train first")
    with ray_session(config, learn=learn), losses_named() as hosts:
        with span("cold start"):
            start = find_weights(config, run, learn=learn)
        sources = {f"policies.{name}.source": path for name, path in start.sources.items()}
        check_shared(sources, Path(config.output_dir), deadline_s=config.deadline_s)
        with nullcontext() if observer is None else observer.listening():
            session = assemble(config, run, start, learn=learn, scoring=scoring)
            workers = [*session.workers.all, *session.collector.runners]
            hosts.update(locate(workers, deadline_s=config.deadline_s))
            if learn and config.on_lost_worker == "replace":
                session.collector.repair = RolloutRepair(
                    config=config,
                    sources=start.sources,
                    workers=session.workers,
                    runners=session.collector.runners,
                    publisher=session.publisher,
                    hosts=hosts,
                )
            try:
                yield session
            finally:
                session.listen()


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


def assemble(
    config: Config, run: RunDir, start: Start, *, learn: bool, scoring: Worker | None = None
) -> Session:
    """Spawn the workers and wire the ports."""
    source = prompt_source(config)
    with stage("start the workers"):
        workers = spawn_workers(start.with_experts(config), start.sources, learn=learn, scoring=scoring)
        runners = spawn_runners(config, text_context(config, start.sources), workers)
    weights = {name: reward.weight for name, reward in config.rewards.items()}
    evaluator = Evaluator(
        config=config,
        prompts=source.held_out(config.eval.num_prompts),
        runners=runners,
        judges=workers.judges,
        recorder=ChainRecorder(
            run.path,
            weights=weights,
            final_block=final_picture_block(config),
            max_chains_per_step=most_recorded(config),
        ),
    )
    collector = GroupCollector(
        config=config,
        terms=reward_terms(config),
        versions=lambda: {name: group.version for name, group in workers.learners.items()},
        make_prompt=source.train,
        runners=runners,
        observe=_nothing,
    )
    gpu_sharing = workers.gpu_sharing(config)
    session = Session(
        config=config,
        run=run,
        workers=workers,
        collector=collector,
        publisher=WeightPublisher(
            config=config,
            learners=workers.learners,
            rollouts=workers.rollouts,
            gpu_sharing=gpu_sharing,
        ),
        gpu_sharing=gpu_sharing,
        evaluator=evaluator,
        monitor=None if scoring else ScoringMonitor(workers.pools.scoring, run.path),
    )
    collector.observe = session.observe
    return session


def _nothing(requests: Sequence[GroupRequest], groups: Sequence[ScoredGroup]) -> None:
    """Observe nothing (before the session is wired)."""
