"""Submits prompts, collects scored groups and keeps those that can be trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.calls import Worker, gather
from cluster.runner import Job
from configs.schema import Config
from rl.errors import RewardError, RolloutError
from rl.filters import Fate, FilterCounts, sift
from rl.metrics import reward_metrics, rollout_metrics
from rl.types import Metrics, Prompt, ScoredGroup

Observer = Callable[[Sequence[Job], Sequence[ScoredGroup]], None]
"""Sees every group as it was scored, before any filter."""


def run_jobs(
    runners: Sequence[Worker],
    jobs: Sequence[Job],
    *,
    deadline_s: float,
    on_done: Callable[[int], None] | None = None,
) -> list[ScoredGroup]:
    """Run jobs on the chain runners in turn and return their groups in order."""
    calls = [runners[i % len(runners)].call("run_group", job) for i, job in enumerate(jobs)]
    return gather(calls, deadline_s=deadline_s, on_done=on_done)


@dataclass(slots=True)
class GroupCollector:
    """The ``Collector`` port: on-policy, groups in id order, bounded refill."""

    config: Config
    make_prompt: Callable[[int], Prompt]
    """Training prompt by position; the same for the same position."""
    runners: Sequence[Worker]
    observe: Observer
    position: int = 0
    """Prompts drawn so far: the data position a checkpoint keeps."""

    def next(self, num_prompts: int) -> tuple[Sequence[ScoredGroup], Metrics]:
        """Return ``num_prompts`` trainable groups, fewer only where the refills are used up.

        Raises:
            RewardError: If more than ``max_invalid_frac`` of the chains lost a score.
            RolloutError: If no group at all can be trained on.
        """
        counts, kept, seen = FilterCounts(), list[ScoredGroup](), list[ScoredGroup]()
        seconds = {"rollout": 0.0, "reward": 0.0}
        for _ in range(1 + self.config.max_refills):
            for group in self._round(num_prompts - len(kept)):
                sifted = sift(group, self.config.rewards)
                counts.add(group, sifted)
                seen.append(group)
                if sifted.fate is Fate.KEPT:
                    kept.append(sifted.group)
                seconds = {key: max(value, group.seconds[key]) for key, value in seconds.items()}
            if len(kept) == num_prompts:
                break
        if counts.invalid_frac > self.config.max_invalid_frac:
            raise RewardError(
                f"{counts.invalid_frac:.0%} of the chains lost a score (max_invalid_frac="
                f"{self.config.max_invalid_frac:g}); the reasons are in the run directory's chains/"
            )
        if not kept:
            raise RolloutError("no group of this step can be trained on: all rewards are equal in each")
        times = {f"time/{key}_s": value for key, value in seconds.items()}
        rewards = reward_metrics(seen, self.config.rewards)
        return kept, counts.to_metrics() | rewards | rollout_metrics(seen) | times

    def _round(self, num: int) -> list[ScoredGroup]:
        prompts = [self.make_prompt(self.position + i) for i in range(num)]
        step = self.position // self.config.prompts_per_step  # refills count too; a resumed run gets the same
        self.position += num
        jobs = [Job(prompt=p, draw=0, num_chains=self.config.group_size, grpo_step=step) for p in prompts]
        groups = run_jobs(self.runners, jobs, deadline_s=self.config.deadline_s)
        self.observe(jobs, groups)
        return groups
