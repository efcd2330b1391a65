"""The life of a run: cold start, workers, loop, checkpoints, evaluation, report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.coldstart import prompt_source
from cluster.calls import gather
from cluster.coldstart import Start, ensure_start, text_context
from cluster.collector import GroupCollector
from cluster.crew import Crew, spawn_crew, spawn_runners
from cluster.evaluation import Evaluator, Sampler, resolve_pictures, score_of
from cluster.learners import LearnerGroups, WeightPublisher
from cluster.progress import CONSOLE, stage
from cluster.raysession import ray_session
from cluster.recorder import ChainRecorder
from cluster.report import write_report
from cluster.rundir import RunDir
from cluster.runner import Job
from cluster.tables import eval_table
from cluster.tracking import ConsoleSink, JsonlSink, MultiSink
from configs.load import to_yaml
from configs.schema import Config
from rewards.load import load_reward
from rl.data.prompts import PromptSource
from rl.loop import train as train_loop
from rl.ports import Ports
from rl.types import ScoredGroup

logger = logging.getLogger(__name__)

RECORDED_GROUPS = 2
"""Groups a step whose chains are written to the run directory."""


@dataclass(slots=True)
class Session:
    """One run while it lasts."""

    config: Config
    run: RunDir
    source: PromptSource
    crew: Crew
    collector: GroupCollector
    publisher: WeightPublisher
    evaluator: Evaluator
    step: int = 0

    def restore(self) -> None:
        """Load the newest checkpoint into the learners and the data position."""
        newest = self.run.checkpoints()[-1:]
        for checkpoint in newest:
            calls = [
                call
                for name, group in self.crew.learners.items()
                for call in group.call_all("load", checkpoint.path / name, "learner")
            ]
            gather(calls, deadline_s=self.config.deadline_s)
            self.step, self.collector.position = checkpoint.step, checkpoint.position
            for name, group in self.crew.learners.items():
                group.version = checkpoint.versions[name]

    def save(self) -> None:
        """Write a checkpoint; it counts only when all of it is on disk."""
        path = self.run.checkpoint_path(self.step)
        calls = [
            call
            for name, group in self.crew.learners.items()
            for call in group.call_all("save", path / name, "learner")
        ]
        gather(calls, deadline_s=self.config.deadline_s)
        versions = {name: group.version for name, group in self.crew.learners.items()}
        self.run.finish_checkpoint(
            self.step, self.collector.position, versions, keep=self.config.keep_checkpoints
        )

    def after_step(self, step: int) -> None:
        """Checkpoint and evaluate when due."""
        self.step = step
        if step % self.config.save_every == 0 or step == self.config.num_steps:
            self.save()
        if self.config.eval.every and step % self.config.eval.every == 0 and step < self.config.num_steps:
            self.evaluator.policies("grpo", step=step, sampler="deterministic")
            self.evaluator.write(self.run)

    def observe(self, jobs: Sequence[Job], groups: Sequence[ScoredGroup]) -> None:
        """Record some chains of the step as they were scored, before any filter."""
        for job, group in list(zip(jobs, groups, strict=True))[:RECORDED_GROUPS]:
            for index, chain in enumerate(group.chains):
                pictures = resolve_pictures(chain, self.config)
                scores = {name: score_of(group, name, index) for name in self.config.rewards}
                self.evaluator.recorder.record(
                    self.step, "train", "train", chain, pictures, job.prompt, scores
                )

    def export(self) -> None:
        """Write both policies in the layout of their libraries to ``final/``."""
        calls = [
            call
            for name, group in self.crew.learners.items()
            for call in group.call_all("export", self.run.path / "final" / name)
        ]
        gather(calls, deadline_s=self.config.deadline_s)


@contextmanager
def open_session(config: Config, *, learn: bool) -> Iterator[Session]:
    """Start Ray, make or reuse the starting point, spawn everything; end it all on the way out."""
    run = RunDir(Path(config.output_dir) / config.name)
    run.check(resume=config.resume)
    with ExitStack() as stack:
        with stage("start Ray"):
            stack.enter_context(ray_session(config))
        source = prompt_source(config)
        start = ensure_start(config)
        run.create(resolved_yaml=to_yaml(config))
        yield assemble(config, run, source, start, learn=learn)


def assemble(config: Config, run: RunDir, source: PromptSource, start: Start, *, learn: bool) -> Session:
    """Spawn the workers and wire the ports."""
    with stage("start the workers"):
        crew = spawn_crew(start.with_experts(config), start.sources, learn=learn)
        runners = spawn_runners(config, text_context(config, start.sources), crew.pools)
    weights = {name: reward.weight for name, reward in config.rewards.items()}
    evaluator = Evaluator(
        config=config,
        prompts=source.held_out(config.eval.num_prompts),
        runners=runners,
        judges=crew.judges,
        recorder=ChainRecorder(run.path, weights=weights),
    )
    collector = GroupCollector(config=config, make_prompt=source.train, runners=runners, observe=_nothing)
    session = Session(
        config=config,
        run=run,
        source=source,
        crew=crew,
        collector=collector,
        publisher=WeightPublisher(config=config, learners=crew.learners, rollouts=crew.rollouts),
        evaluator=evaluator,
    )
    collector.observe = session.observe
    return session


def train(config: Config) -> Path:
    """Run the whole of it and return the run directory."""
    with open_session(config, learn=True) as session:
        sink = JsonlSink(session.run.metrics)
        session.restore()
        sink.truncate_after(session.step - 1)
        if session.step == 0:
            session.evaluator.bicubic()
            session.evaluator.policies("coldstart", step=0, sampler="deterministic")
            session.evaluator.write(session.run)
        else:
            session.evaluator.read(session.run)
        ports = Ports(
            collector=session.collector,
            learners=LearnerGroups(groups=session.crew.learners, deadline_s=config.deadline_s),
            publisher=session.publisher,
            sink=MultiSink([sink], [ConsoleSink(CONSOLE, config.num_steps)]),
        )
        train_loop(
            config,
            start=session.step,
            ports=ports,
            judged_blocks=judged(config),
            after_step=session.after_step,
        )
        session.evaluator.policies("grpo", step=session.step, sampler="deterministic")
        summary = session.evaluator.write(session.run)
        session.export()
        run = session.run.path
    CONSOLE.print(eval_table(summary))
    CONSOLE.print(f"report: {write_report(run)}")
    return run


def evaluate(config: Config, *, sampler: Sampler = "deterministic") -> Path:
    """Evaluate the policies of ``config`` on the held-out prompts."""
    with open_session(config, learn=False) as session:
        session.evaluator.bicubic()
        session.evaluator.policies("grpo", step=0, sampler=sampler)
        CONSOLE.print(eval_table(session.evaluator.write(session.run)))
        return session.run.path


def coldstart(config: Config) -> Path:
    """Make the starting point, or say where it lies."""
    with ray_session(config):
        return ensure_start(config).directory


def judged(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the blocks each reward gives credit to."""
    return {
        name: tuple(reward.blocks) or load_reward(name, reward).judged_blocks(config.chain)
        for name, reward in config.rewards.items()
    }


def _nothing(jobs: Sequence[Job], groups: Sequence[ScoredGroup]) -> None:
    """Observe nothing (before the session is wired)."""
