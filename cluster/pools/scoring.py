"""Scoring actor: every reward's pool behind one call, and the report of what failed.

An asynchronous actor that holds requests and references, never pictures. It owns the reward actors, so they end
with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from actors.rewards.worker import RewardWorker
from cluster.pools.reward_pool import PoolCounts, RewardPool
from cluster.runtime.calls import Worker
from cluster.runtime.heartbeats import HeartbeatTarget, set_heartbeat_target
from cluster.runtime.placement_groups import Reserved
from cluster.runtime.spawn import spawn
from configs.derive import reward_deadline_s
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
    chain: FinishedChain[Any]
    """Its pictures are references."""
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
        self._config, self._envs, self._replica, self._reserved = config, envs, replica, reserved
        self._pools = {name: self._pool(name) for name in config.rewards}
        self._num_failed: Counter[tuple[str, str]] = Counter()
        """By reward and fault."""
        self._failed: list[Failed] = []
        """Not reported yet."""

    async def setup(self) -> None:
        """Start every replica and wait until all are ready."""
        await asyncio.gather(*(pool.setup() for pool in self._pools.values()))

    async def score(self, chains: Sequence[FinishedChain[Any]]) -> list[dict[str, Scores] | Exception]:
        """Send chains to every reward at once.

        Args:
            chains: Their pictures are references.

        Returns:
            Scores of each chain by reward; in the place of one that lost a picture, the error.
        """
        return await asyncio.gather(*map(self._score, chains), return_exceptions=True)  # type: ignore[return-value]

    async def _score(self, chain: FinishedChain[Any]) -> dict[str, Scores]:
        answers = await asyncio.gather(*(pool.score(chain) for pool in self._pools.values()))
        scores = dict(zip(self._pools, answers, strict=True))
        for name, score in scores.items():
            if score.valid[0]:
                continue
            fault = fault_of(score.reasons[0])
            self._num_failed[name, fault] += 1
            if self._num_failed[name, fault] <= EXAMPLES:
                self._failed.append(Failed(reward=name, fault=fault, chain=chain, scores=scores))
        return scores

    async def report(self) -> ScoringReport:
        """Tell what happened since the last report."""
        counts = await asyncio.gather(*(pool.counts() for pool in self._pools.values()))
        failed, self._failed = self._failed, []
        return ScoringReport(
            counts=dict(zip(self._pools, counts, strict=True)),
            failed=failed,
            tracebacks={name: dict(pool.tracebacks) for name, pool in self._pools.items()},
        )

    def meters(self) -> list[PoolMeter]:
        """Return what every pool has in hand and has done, in chains."""
        return [pool.meter for pool in self._pools.values()]

    # ------------------------------------------------------------------ pools

    def _pool(self, name: str) -> RewardPool:
        # A worker needs one batch to score and one to go on with.
        together = 1 if self._config.deterministic else self._config.rewards[name].batch_size
        return RewardPool(
            name,
            num_replicas=self._config.rewards[name].num_workers,
            batch_size=together,
            room=max(2 * together, 4),
            deadline_s=reward_deadline_s(self._config, name),
            setup_s=self._config.deadline_s,
            start=partial(self._start, name),
        )

    def _start(self, reward_name: str, name: str, place: int) -> Worker:
        """Start a replica of a reward, in the bundle that the plan has for the place."""
        reward = self._config.rewards[reward_name]
        return spawn(
            self._replica,
            name,
            num_gpus=reward.num_gpus,
            num_threads=max(1, round(reward.num_cpus)),
            runtime_env=self._envs.get(reward_name, {}),
            where=self._reserved.where(f"reward-{reward_name}-{place}") if self._reserved else None,
            kwargs={"name": reward_name, "config": reward, "deterministic": self._config.deterministic},
        )
