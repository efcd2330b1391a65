"""Session: the workers of a run, ready on Ray, for training as for serving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.pools.chain_runner import TextContext, final_picture_block
from cluster.pools.gpu_sharing import GpuSharing
from cluster.pools.learner_group import MODEL
from cluster.pools.learners import WeightPublisher
from cluster.pools.scoring_monitor import ScoringMonitor
from cluster.record.observer import Observer
from cluster.record.recorder import ChainRecorder, most_recorded
from cluster.record.rundir import RunDir
from cluster.run.coldstart import Start, ensure_start, has_start, text_context
from cluster.run.evaluation import Evaluator
from cluster.run.restarts import losses_named
from cluster.run.workers import RunWorkers, spawn_runners, spawn_workers
from cluster.runtime.calls import Worker
from cluster.runtime.console import stage
from cluster.runtime.hosts import check_shared, locate
from cluster.runtime.ray_session import ray_session
from configs.derive import uses_expert
from configs.schema import Config
from rl.data.fitting import FittingSource
from rl.data.pictures import decoded
from rl.data.source import PromptSource, prompt_source
from rl.errors import ConfigError
from rl.spans import span


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The workers of a run, ready, and the driver's side of them."""

    config: Config
    run: RunDir
    prompts: PromptSource
    sources: Mapping[str, Path]
    """Checkpoint directory by policy: what the workers loaded."""
    workers: RunWorkers
    runners: Sequence[Worker]
    hosts: dict[str, str]
    """Address of each worker's host; kept up to date where workers are replaced."""
    gpu_sharing: GpuSharing
    publisher: WeightPublisher
    evaluator: Evaluator
    monitor: ScoringMonitor | None
    """None where the rewards are shared: who shares them listens."""


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
            session = assemble(config, run, start, hosts, learn=learn, scoring=scoring)
            try:
                yield session
            finally:
                if session.monitor is not None:
                    session.monitor.listen()


def find_weights(config: Config, run: RunDir, *, learn: bool) -> Start:
    """Return what the workers load: the starting point, or without learners the run's newest checkpoint.

    The cold start is made where it is wanted and not there. A checkpoint needs it for the learned expert only.
    """
    checkpoint = None if learn else run.newest_checkpoint()
    if checkpoint is None:
        return ensure_start(config)
    sources = {name: checkpoint.path / name / MODEL for name in config.policies}
    if not uses_expert(config):
        return Start(directory=run.path, sources=sources)
    return replace(ensure_start(config), sources=sources)


def fitting_prompts(config: Config, context: TextContext) -> PromptSource:
    """Return the run's prompts, held to what the text policy's context leaves room for.

    Raises:
        ConfigError: If the chain's texts alone are longer.
    """
    source = prompt_source(config)
    if context.grammar.token_policy is None:
        return source
    whole = context.whole
    answers = (
        sum(block.max_tokens for block in config.chain.values()) if whole is None else whole.plan.max_tokens
    )
    if answers >= context.max_context:
        raise ConfigError(
            f"chain: its texts may take {answers} tokens, and the text policy's context holds {context.max_context}; "
            f"lower chain.<block>.max_tokens"
        )
    return FittingSource.of(
        source,
        config,
        num_tokens=lambda prompt: context.prompt_length(prompt, config),
        longest=context.max_context - answers,
    )


def assemble(
    config: Config, run: RunDir, start: Start, hosts: dict[str, str], *, learn: bool, scoring: Worker | None
) -> Session:
    """Spawn the workers and construct the driver's side of them; ``hosts`` is filled with where they are."""
    context = text_context(config, start.sources)
    prompts = fitting_prompts(config, context)
    with stage("start the workers"):
        workers = spawn_workers(start.with_experts(config), start.sources, learn=learn, scoring=scoring)
        runners = spawn_runners(config, context, workers)
    hosts.update(locate([*workers.all, *runners], deadline_s=config.deadline_s))
    gpu_sharing = workers.gpu_sharing(config)
    recorder = ChainRecorder(
        run.path,
        weights={name: reward.weight for name, reward in config.rewards.items()},
        final_block=final_picture_block(config),
        max_chains_per_step=most_recorded(config),
    )
    return Session(
        config=config,
        run=run,
        prompts=prompts,
        sources=start.sources,
        workers=workers,
        runners=runners,
        hosts=hosts,
        gpu_sharing=gpu_sharing,
        publisher=WeightPublisher(
            config=config, learners=workers.learners, rollouts=workers.pools.rollouts, gpu_sharing=gpu_sharing
        ),
        evaluator=Evaluator(
            config=config,
            prompts=[decoded(prompt) for prompt in prompts.held_out(config.eval.num_prompts)],
            runners=runners,
            picture_metrics=workers.picture_metrics,
            recorder=recorder,
            codec=workers.pools.rollouts[context.whole.policy][0] if context.whole else None,
        ),
        monitor=None if scoring else ScoringMonitor(workers.pools.scoring, run.path),
    )
