"""Repair of a step that lost rollout workers: they are replaced, while learners and rewards stay as they are.

A new worker loads the starting point and takes the current weights, proved as after every update. The driver then
has the groups that were under way done again: their seeds come from the prompts, so they are the same groups.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.pools.learners import WeightPublisher
from cluster.run.workers import RunWorkers, spawn_rollout
from cluster.runtime.calls import Worker, gather, lost_among
from cluster.runtime.hosts import has_room, locate
from configs.schema import Config

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRepair:
    """What a collector does about a loss before it asks for its groups again."""

    config: Config
    sources: Mapping[str, Path]
    """Checkpoint directory by policy."""
    workers: RunWorkers
    runners: Sequence[Worker]
    publisher: WeightPublisher
    hosts: dict[str, str]
    """Address of each worker's host; kept up to date."""

    def __call__(self, error: BaseException) -> None:
        """Replace the rollout workers that are gone.

        Raises:
            BaseException: The error itself, where others than rollout workers are gone, or no room is left.
        """
        gone = lost_among([*self.workers.all, *self.runners], within_s=self.config.deadline_s)
        places = [
            (policy, index)
            for policy, workers in self.workers.rollouts.items()
            for index, worker in enumerate(workers)
            if worker.name in gone
        ]
        num_gpus = sum(self.config.policies[policy].num_gpus for policy, _ in places)
        if not places or len(places) < len(gone) or not has_room(num_gpus):
            raise error
        lost = ", ".join(f"{name} on host {self.hosts.get(name, 'unknown')}" for name in sorted(gone))
        logger.warning("%s was lost and is replaced; its work is done again", lost)
        self._replace(places)

    def _replace(self, places: Sequence[tuple[str, int]]) -> None:
        deadline_s, rollouts = self.config.deadline_s, self.workers.rollouts
        for policy, index in places:
            rollouts[policy][index] = spawn_rollout(
                policy, index, self.config, self.sources[policy], self.workers.reserved
            )
            self.publisher.published.pop(policy, None)
        new = [rollouts[policy][index] for policy, index in places]
        gather([worker.call("setup") for worker in new], deadline_s=deadline_s)
        self.hosts.update(locate(new, deadline_s=deadline_s))
        self.publisher.publish_and_prove()
        gather([runner.call("use", self.workers.pools) for runner in self.runners], deadline_s=deadline_s)
