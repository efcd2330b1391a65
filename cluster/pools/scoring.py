"""Scoring actor: every reward's pool behind one call a chain, and the report of what failed.

An asynchronous actor that holds requests and references, never pictures. It owns the reward actors, so they end
with it.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.rewards.worker import RewardWorker
from cluster.pools.reward_pool import PoolCounts, RewardPool
from cluster.runtime.calls import Worker
from cluster.runtime.heartbeats import HeartbeatTarget, set_heartbeat_target
from cluster.runtime.placement_groups import Reserved
from cluster.runtime.spawn import CONCURRENCY, spawn
from configs.derive import reward_deadline_s
from configs.planning.placement import SHARE
from configs.schema import Config
from rewards.core.tracebacks import fault_of
from rl.spans import PoolMeter
from rl.types import FinishedChain, Scores

EXAMPLES = 2
"""Chains kept of each fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A chain that a reward could not score."""

    reward: str
    fault: str
    """What it has in common with others (``rewards.core.tracebacks.fault_of``)."""
    chain: FinishedChain[int]
    pictures: Sequence[Any]
    """References, that the chain's indexes point into."""
    scores: Mapping[str, Scores]
    """Of all rewards, this chain's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringReport:
    """What happened since the last report."""

    counts: Mapping[str, PoolCounts]
    """By reward."""
    failed: Sequence[Failed]
    """The first chains of each fault of each reward, over the life of the actor."""
    tracebacks: Mapping[str, Mapping[str, str]]
    """By reward and fault."""


@dataclass(slots=True)
class _Examples:
    """The first chains of each fault."""

    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    untold: list[Failed] = field(default_factory=list)

    def look_at(
        self, chain: FinishedChain[int], pictures: Sequence[Any], scores: Mapping[str, Scores]
    ) -> None:
        """Keep a chain where it is among the first that failed in some way."""
        for name, one in scores.items():
            if one.valid[0]:
                continue
            fault = fault_of(one.reasons[0])
            self.seen[name, fault] += 1
            if self.seen[name, fault] <= EXAMPLES:
                self.untold.append(
                    Failed(reward=name, fault=fault, chain=chain, pictures=pictures, scores=scores)
                )


class Scoring:
    """Scores finished chains with every reward of a run at once."""

    def __init__(
        self,
        *,
        config: Config,
        envs: Mapping[str, Mapping[str, Any]],
        replica: type = RewardWorker,
        reserved: Reserved | None = None,
        heartbeats: HeartbeatTarget | None = None,
    ) -> None:
        """Lay out the pools; nothing is started.

        Args:
            config: The run.
            envs: ``runtime_env`` of each reward's actors.
            replica: Class of the actors.
            reserved: Their bundles; None leaves their places to Ray.
            heartbeats: Where the actors send theirs.
        """
        set_heartbeat_target(heartbeats)
        start = functools.partial(_start, config, envs, replica, reserved)
        self._pools = {name: _pool(name, config, functools.partial(start, name)) for name in config.rewards}
        self._examples = _Examples()

    async def setup(self) -> None:
        """Start every replica and wait until all are ready."""
        await asyncio.gather(*(pool.setup() for pool in self._pools.values()))

    async def score(self, chain: FinishedChain[int], pictures: Sequence[Any]) -> dict[str, Scores]:
        """Send one chain to every reward at once.

        Args:
            chain: Its pictures are indexes.
            pictures: References of its pictures, wrapped in a list so that they stay references.

        Returns:
            Scores of one chain by reward.
        """
        answers = await asyncio.gather(*(pool.score(chain, pictures) for pool in self._pools.values()))
        scores = dict(zip(self._pools, answers, strict=True))
        self._examples.look_at(chain, pictures, scores)
        return scores

    async def report(self) -> ScoringReport:
        """Tell what happened since the last report."""
        counts = await asyncio.gather(*(pool.counts() for pool in self._pools.values()))
        failed, self._examples.untold = self._examples.untold, []
        return ScoringReport(
            counts=dict(zip(self._pools, counts, strict=True)),
            failed=failed,
            tracebacks={name: dict(pool.tracebacks) for name, pool in self._pools.items()},
        )

    def meters(self) -> list[PoolMeter]:
        """Return what every pool has in hand and has done, in chains."""
        return [pool.meter for pool in self._pools.values()]

    async def replicas(self) -> dict[str, list[Worker]]:
        """Return the present reward actors by reward."""
        return {name: pool.workers for name, pool in self._pools.items()}


def _start(  # the pool gives the last two
    config: Config,
    envs: Mapping[str, Mapping[str, Any]],
    replica: type,
    reserved: Reserved | None,
    reward_name: str,
    name: str,
    place: int,
) -> Worker:
    """Start a replica of a reward, in the bundle that the plan has for the place."""
    reward = config.rewards[reward_name]
    return spawn(
        replica,
        name,
        num_cpus=SHARE,
        num_gpus=reward.num_gpus,
        num_threads=max(1, round(reward.num_cpus)),
        max_concurrency=CONCURRENCY,
        runtime_env=envs.get(reward_name, {}),
        where=reserved.where(f"reward-{reward_name}-{place}") if reserved else None,
        kwargs={"name": reward_name, "config": reward, "deterministic": config.deterministic},
    )


def _pool(name: str, config: Config, start: Callable[[str, int], Worker]) -> RewardPool:
    # A worker needs one batch to score and one to go on with.
    room = 2 * (1 if config.deterministic else config.rewards[name].batch_size)
    return RewardPool(
        name,
        num_replicas=config.rewards[name].num_workers,
        room=max(room, 4),
        deadline_s=reward_deadline_s(config, name),
        setup_s=config.deadline_s,
        start=start,
    )
