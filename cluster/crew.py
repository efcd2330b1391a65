"""Everything a run spawns: rollout workers, reward pools, judges, learner ranks, chain runners."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import ray.util

from actors.image_rollout import ImageRolloutWorker
from actors.learner import LearnerRank, LearnerSpec
from actors.text_rollout import TextRolloutWorker
from cluster.calls import Call, RayStore, Worker, gather
from cluster.learners import LearnerGroup
from cluster.runner import ChainRunner, Pools, TextContext
from cluster.scoring import Scoring
from cluster.spawn import spawn
from configs.check_rewards import runtime_env
from configs.schema import Config
from rewards.experts import Judges

CONCURRENCY = 1024
"""Calls an asynchronous worker takes at once: batches form inside it, not in front of it."""
SHARE = 0.05
"""Logical CPUs an actor reserves: rollout, reward and learner take turns, Ray must not keep them apart."""

POLICY_CLASSES = {
    "token": "actors.policies.token:TokenPolicy",
    "denoising": "actors.policies.denoising:DenoisingPolicy",
}
"""What a learner rank loads, by ``policies.*.kind``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """All workers of a run, ready."""

    pools: Pools
    judges: Worker
    learners: Mapping[str, LearnerGroup]

    @property
    def rollouts(self) -> dict[str, Sequence[Worker]]:
        """Rollout workers by policy."""
        return {**self.pools.text, **self.pools.image}


def spawn_scoring(config: Config) -> Worker:
    """Start the scoring actor, which starts the reward actors in its ``setup``."""
    envs = {name: runtime_env(reward) for name, reward in config.rewards.items()}
    return spawn(
        Scoring,
        "scoring-0",
        num_cpus=SHARE,
        max_concurrency=CONCURRENCY,
        kwargs={"config": config, "envs": envs},
    )


def spawn_crew(
    config: Config, sources: Mapping[str, Path], *, learn: bool, scoring: Worker | None = None
) -> Crew:
    """Start every worker and wait until all are ready.

    Args:
        config: The run.
        sources: Checkpoint directory by policy.
        learn: Whether learner ranks are needed.
        scoring: A scoring actor that is there already, and is others' too; None starts one.
    """
    rollouts = {name: _spawn_rollouts(name, config, sources[name]) for name in config.policies}
    starting = [] if scoring else [spawn_scoring(config)]
    judged_by = scoring or starting[0]
    judges = spawn(Judges, "judges-0", num_cpus=SHARE, kwargs={"names": list(config.eval.judges)})
    learners = {name: _spawn_learners(name, config, sources[name]) for name in config.policies if learn}
    calls = [w.call("setup") for group in (*rollouts.values(), [*starting, judges]) for w in group]
    for group in learners.values():
        store = RayStore(deadline_s=config.deadline_s)
        address, port = rendezvous(group.ranks[0], deadline_s=config.deadline_s)
        calls += [rank.call("setup", address, port, store) for rank in group.ranks]
    gather(calls, deadline_s=config.deadline_s)
    kinds = {name: policy.kind for name, policy in config.policies.items()}
    pools = Pools(
        text={n: w for n, w in rollouts.items() if kinds[n] == "token"},
        image={n: w for n, w in rollouts.items() if kinds[n] == "denoising"},
        scoring=judged_by,
    )
    return Crew(pools=pools, judges=judges, learners=learners)


def spawn_runners(config: Config, context: TextContext, pools: Pools) -> list[Worker]:
    """Start the chain runners."""
    kwargs = {"config": config, "context": context, "pools": pools}
    return [
        spawn(ChainRunner, f"runner-{i}", num_cpus=SHARE, max_concurrency=CONCURRENCY, kwargs=kwargs)
        for i in range(config.num_runners)
    ]


def _spawn_rollouts(name: str, config: Config, source: Path) -> list[Worker]:
    policy = config.policies[name]
    cls = TextRolloutWorker if policy.kind == "token" else ImageRolloutWorker
    kwargs = {
        "directory": source,
        "config": policy,
        "block_names": tuple(config.chain),
        "seed": config.seed,
        "deterministic": config.deterministic,
    }
    return [
        spawn(
            cls,
            f"rollout-{name}-{i}",
            num_cpus=SHARE,
            num_gpus=policy.num_gpus,
            num_threads=policy.num_threads,
            max_concurrency=CONCURRENCY,
            kwargs=kwargs,
        )
        for i in range(policy.num_rollout_workers)
    ]


def _spawn_learners(name: str, config: Config, source: Path) -> LearnerGroup:
    policy = config.policies[name]
    spec = LearnerSpec(
        policy_name=name,
        policy_target=POLICY_CLASSES[policy.kind],
        config=policy,
        directory=source,
        block_names=tuple(config.chain),
        bucket_bytes=config.bucket_mib << 20,
        world_size=policy.num_ranks,
        seed=config.seed,
        deterministic=config.deterministic,
    )
    ranks = [
        spawn(
            LearnerRank,
            f"learner-{name}-{rank}",
            num_cpus=SHARE,
            num_gpus=policy.num_gpus,
            num_threads=policy.num_threads,
            kwargs={"spec": replace(spec, rank=rank)},
        )
        for rank in range(policy.num_ranks)
    ]
    return LearnerGroup(policy=name, ranks=ranks, deadline_s=config.deadline_s)


def rendezvous(rank: Worker, *, deadline_s: float) -> tuple[str, int]:
    """Return an address of a rank's machine, and a TCP port that is free there now."""
    # Ray runs it inside the actor's process; the actor itself is not used.
    ref = rank.actor.__ray_call__.remote(_address)
    (found,) = gather([Call(name=rank.name, method="rendezvous", ref=ref)], deadline_s=deadline_s)
    address, port = found
    return str(address), int(port)


def _address(_: object) -> tuple[str, int]:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return ray.util.get_node_ip_address(), listener.getsockname()[1]
