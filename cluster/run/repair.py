"""Repair of a step that lost rollout workers: they are replaced, while learners and rewards stay as they are.

A new worker loads the starting point and takes the current weights, proved as after every update. The driver then
has the groups that were under way done again: their seeds come from the prompts, so they are the same groups.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.run.session import Session
from cluster.run.workers import spawn_rollout
from cluster.runtime.calls import gather, lost_among
from cluster.runtime.console import stage
from cluster.runtime.hosts import has_room, locate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutRepair:
    """What a collector does about a loss before it asks for its groups again."""

    session: Session

    def __call__(self, error: BaseException) -> None:
        """Replace the rollout workers that are gone.

        Raises:
            BaseException: The error itself, where others than rollout workers are gone, or no room is left.
        """
        config, workers, hosts = self.session.config, self.session.workers, self.session.hosts
        gone = lost_among([*workers.all, *self.session.runners], within_s=config.deadline_s)
        places = [
            (policy, index)
            for policy, rollouts in workers.pools.rollouts.items()
            for index, worker in enumerate(rollouts)
            if worker.name in gone
        ]
        num_gpus = sum(
            workers.reserved.num_gpus(workers.pools.rollouts[policy][index].name) for policy, index in places
        )
        if not places or len(places) < len(gone) or not has_room(num_gpus):
            raise error
        lost = ", ".join(f"{name} on host {hosts.get(name, 'unknown')}" for name in sorted(gone))
        logger.warning("%s was lost and is replaced; its work is done again", lost)
        with stage("replace what was lost"):
            self._replace(places)

    def _replace(self, places: Sequence[tuple[str, int]]) -> None:
        session, pools = self.session, self.session.workers.pools
        deadline_s, rollouts = session.config.deadline_s, pools.rollouts
        for policy, index in places:
            source, reserved = session.sources[policy], session.workers.reserved
            rollouts[policy][index] = spawn_rollout(policy, index, session.config, source, reserved)
            session.publisher.forget(policy)
        new = [rollouts[policy][index] for policy, index in places]
        gather([worker.call("setup") for worker in new], deadline_s=deadline_s)
        session.hosts.update(locate(new, deadline_s=deadline_s))
        session.publisher.publish()
        gather([runner.call("use", pools) for runner in session.runners], deadline_s=deadline_s)
