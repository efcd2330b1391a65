"""GPU sharing: which of two that share one is awake, the learner ranks of a policy, or its rollout workers.

The only place that calls ``sleep`` and ``wake``. Without ``colocate`` there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from cluster.runtime.calls import Worker, gather
from cluster.runtime.spawn import kill

Side = Literal["learner", "rollout"]


@dataclass(slots=True)
class GpuSharing:
    """Which side of each policy has the GPU."""

    learners: Mapping[str, Sequence[Worker]] = field(default_factory=dict)
    rollouts: Mapping[str, Sequence[Worker]] = field(default_factory=dict)
    deadline_s: float = 0.0
    is_shared: bool = False
    """Whether anything is shared (``colocate``, and there are learners)."""
    awake: dict[str, Side] = field(default_factory=dict)
    """By policy. At first the rollout workers are."""

    def wake(self, policy: str, side: Side) -> None:
        """Put the others of a policy to sleep, then wake one side; nothing if it is awake."""
        if not self.is_shared or self.awake.get(policy, "rollout") == side:
            return
        sides = {"learner": self.learners[policy], "rollout": self.rollouts[policy]}
        other: Side = "rollout" if side == "learner" else "learner"
        switch(sides[other], "sleep", deadline_s=self.deadline_s)
        switch(sides[side], "wake", deadline_s=self.deadline_s)
        self.awake[policy] = side

    def end_rollouts(self) -> None:
        """End the rollout workers where a GPU is shared: work under way would keep them from their sleep."""
        if self.is_shared:
            for worker in chain.from_iterable(self.rollouts.values()):
                kill(worker)
            self.rollouts = dict.fromkeys(self.rollouts, ())

    def wake_all(self, side: Side) -> None:
        """Do so for every policy."""
        for policy in self.learners:
            self.wake(policy, side)


def switch(workers: Sequence[Worker], method: Literal["sleep", "wake"], *, deadline_s: float) -> None:
    """Call ``sleep`` or ``wake`` on all workers; one without such a method keeps its memory."""
    able = [worker for worker in workers if hasattr(worker.actor, method)]
    gather([worker.call(method) for worker in able], deadline_s=deadline_s)
