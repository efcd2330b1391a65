"""Workers of a run, and how they are spawned: rollout workers, reward pools, metrics, learner ranks, chain runners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from actors.learner.rank import LearnerRank
from actors.learner.spec import LearnerSpec
from actors.policies.family import family_of
from actors.rollout.worker import RolloutSpec
from cluster.pools.chain_runner import ChainRunner, Pools, TextContext
from cluster.pools.gpu_sharing import GpuSharing, switch
from cluster.pools.learner_group import LearnerGroup
from cluster.pools.scoring import Scoring
from cluster.runtime.calls import Call, RayStore, Worker, gather
from cluster.runtime.heartbeats import heartbeat_target
from cluster.runtime.hosts import rendezvous
from cluster.runtime.placement_groups import Reserved, reserve
from cluster.runtime.spawn import spawn
from configs.checks.rewards import runtime_env
from configs.derive import eval_metrics
from configs.planning.placement import place
from configs.schema import Config
from rewards.experts.picture_metrics import PictureMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWorkers:
    """All workers of a run, ready."""

    pools: Pools
    picture_metrics: Worker | None
    """None where no picture is measured."""
    learners: Mapping[str, LearnerGroup]
    reserved: Reserved
    """The bundles all of them are in."""

    @property
    def all(self) -> list[Worker]:
        """Every worker but the rewards' replicas, which come and go."""
        ranks = [rank for group in self.learners.values() for rank in group.ranks]
        rollouts = [worker for workers in self.pools.rollouts.values() for worker in workers]
        metrics = [self.picture_metrics] if self.picture_metrics else []
        return [*rollouts, *ranks, self.pools.scoring, *metrics]

    def gpu_sharing(self, config: Config) -> GpuSharing:
        """Return who takes turns with whom on shared GPUs."""
        return GpuSharing(
            learners={name: group.ranks for name, group in self.learners.items()},
            rollouts=self.pools.rollouts,
            deadline_s=config.deadline_s,
            is_shared=config.colocate and bool(self.learners),
        )


def spawn_scoring(config: Config, reserved: Reserved | None = None) -> Worker:
    """Start the scoring actor, which starts the reward actors in its ``setup``.

    Args:
        config: The run.
        reserved: The bundles it and they go in; None leaves the choice to Ray.
    """
    envs = {name: runtime_env(reward) for name, reward in config.rewards.items()}
    where = reserved.where("scoring-0") if reserved else None
    kwargs = {"config": config, "envs": envs, "reserved": reserved, "heartbeats": heartbeat_target()}
    return spawn(Scoring, "scoring-0", where=where, kwargs=kwargs)


def spawn_workers(
    config: Config, sources: Mapping[str, Path], *, learn: bool, scoring: Worker | None = None
) -> RunWorkers:
    """Start every worker in its bundle and wait until all are ready.

    Colocated learners come first and go to sleep: an engine takes what memory it finds.

    Args:
        config: The run.
        sources: Checkpoint directory by policy.
        learn: Whether learner ranks are needed.
        scoring: A scoring actor that is there already, and is others' too; None starts one.
    """
    placed = replace(config, rewards={}) if scoring else config
    reserved = reserve(place(placed, learn=learn), deadline_s=config.deadline_s)
    learners = {
        name: _spawn_learners(name, config, sources[name], reserved) for name in config.policies if learn
    }
    if config.colocate:
        gather(_learner_setups(learners, config), deadline_s=config.deadline_s)
        switch([r for g in learners.values() for r in g.ranks], "sleep", deadline_s=config.deadline_s)
    rollouts = {
        name: [
            spawn_rollout(name, i, config, sources[name], reserved) for i in range(policy.rollout.num_workers)
        ]
        for name, policy in config.policies.items()
    }
    starting = [] if scoring else [spawn_scoring(config, reserved)]
    picture_metrics = _spawn_picture_metrics(config, reserved)
    others = [*starting, *([picture_metrics] if picture_metrics else [])]
    calls = [w.call("setup") for group in (*rollouts.values(), others) for w in group]
    if not config.colocate:
        calls += _learner_setups(learners, config)
    gather(calls, deadline_s=config.deadline_s)
    pools = Pools(rollouts=rollouts, scoring=scoring or starting[0])
    return RunWorkers(pools=pools, picture_metrics=picture_metrics, learners=learners, reserved=reserved)


def spawn_runners(config: Config, context: TextContext, workers: RunWorkers) -> list[Worker]:
    """Start the chain runners."""
    kwargs = {"config": config, "context": context, "pools": workers.pools}
    names = [f"runner-{index}" for index in range(config.num_runners)]
    return [spawn(ChainRunner, name, where=workers.reserved.where(name), kwargs=kwargs) for name in names]


def _learner_setups(learners: Mapping[str, LearnerGroup], config: Config) -> list[Call]:
    """Have every rank meet the others of its policy."""
    calls: list[Call] = []
    for group in learners.values():
        store = RayStore(deadline_s=config.deadline_s)
        address, port = rendezvous(group.ranks[0], deadline_s=config.deadline_s)
        calls += [rank.call("setup", address, port, store) for rank in group.ranks]
    return calls


def spawn_rollout(name: str, index: int, config: Config, source: Path, reserved: Reserved) -> Worker:
    """Start one rollout worker of a policy; it must still be set up."""
    worker = f"rollout-{name}-{index}"
    policy = config.policies[name]
    family = family_of(name, policy)
    spec = RolloutSpec(
        directory=source,
        config=policy,
        family=family,
        chain=config.chain,
        seed=config.seed,
        deterministic=config.deterministic,
    )
    return spawn(
        family.load("rollout"),
        worker,
        num_gpus=reserved.num_gpus(worker),
        num_threads=policy.num_threads,
        where=reserved.where(worker),
        kwargs={"spec": spec},
    )


def _spawn_picture_metrics(config: Config, reserved: Reserved) -> Worker | None:
    if not (names := eval_metrics(config)):
        return None
    where = reserved.where("metrics-0")
    return spawn(PictureMetrics, "metrics-0", where=where, kwargs={"names": list(names)})


def _spawn_learners(name: str, config: Config, source: Path, reserved: Reserved) -> LearnerGroup:
    policy = config.policies[name]
    spec = LearnerSpec(
        policy_name=name,
        family=family_of(name, policy),
        config=policy,
        directory=source,
        block_names=tuple(config.chain),
        bucket_bytes=config.bucket_mib << 20,
        num_optimizer_steps=config.num_steps * config.updates_per_batch,
        world_size=policy.learner.num_ranks,
        seed=config.seed,
        deterministic=config.deterministic,
        deadline_s=config.deadline_s,
    )
    ranks = [
        spawn(
            LearnerRank,
            f"learner-{name}-{rank}",
            num_gpus=reserved.num_gpus(f"learner-{name}-{rank}"),
            num_threads=policy.num_threads,
            where=reserved.where(f"learner-{name}-{rank}"),
            kwargs={"spec": replace(spec, rank=rank)},
        )
        for rank in range(policy.learner.num_ranks)
    ]
    return LearnerGroup(policy=name, ranks=ranks, deadline_s=config.deadline_s)
