"""Collector of scored groups: submits prompts, keeps the groups that can be trained on, refills the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.pools.chain_runner import GroupRequest
from cluster.runtime.calls import Worker, gather
from cluster.runtime.lost import losses_of
from configs.schema import Config
from rl.advantage.combine import RewardTerm
from rl.advantage.filters import FilterCounts, FilterResult, filter_group, staleness_of
from rl.advantage.overlong import with_overlong
from rl.errors import RewardError, RolloutError, VlcotError
from rl.measure.metrics import reward_metrics, rollout_metrics, staleness_metrics
from rl.types import Metrics, Prompt, ScoredGroup

logger = logging.getLogger(__name__)

PATIENCE = 8
"""Steps in a row without any group to train on after which the run stops. One is bad luck."""

STAGES = ("rollout", "reward")
"""Of a group, by which its seconds are told."""
MOST_REPAIRS = 2
"""Times that lost rollout workers are replaced in one round of sampling."""

Observer = Callable[[int, Sequence[GroupRequest], Sequence[ScoredGroup]], None]
"""Sees the steps done and every group as it was scored, before any filter."""


def run_groups(
    runners: Sequence[Worker],
    requests: Sequence[GroupRequest],
    *,
    deadline_s: float,
    on_done: Callable[[int], None] | None = None,
) -> list[ScoredGroup]:
    """Run requests on the chain runners in turn and return their groups in order."""
    calls = [runners[i % len(runners)].call("run_group", request) for i, request in enumerate(requests)]
    return gather(calls, deadline_s=deadline_s, on_done=on_done)


@dataclass(slots=True)
class GroupCollector:
    """The ``Collector`` port: groups in id order, those not worth an update replaced within a bound.

    Source:
        Yu et al. 2025 (DAPO), section 3.2: dynamic sampling.
    """

    config: Config
    terms: Mapping[str, RewardTerm]
    """What the combination must know of each reward."""
    versions: Callable[[], Mapping[str, int]]
    """The learners' present weight versions by policy."""
    make_prompt: Callable[[int], Prompt[Any]]
    """Training prompt by position; the same for the same position."""
    runners: Sequence[Worker]
    observe: Observer
    step: int = 0
    """Steps done."""
    position: int = 0
    """Prompts drawn so far: the data position a checkpoint keeps."""
    repair: Callable[[BaseException], None] | None = None
    """Replaces lost rollout workers, or raises what it was given; None leaves every loss to others."""
    num_empty: int = field(default=0, init=False)
    """Steps in a row without any group to train on."""

    def next(self, num_prompts: int) -> tuple[Sequence[ScoredGroup], Metrics]:
        """Return ``num_prompts`` trainable groups, fewer only where the refills are used up.

        At most ``max_refills * num_prompts`` further prompts are drawn, never more at once than groups lack.
        No group at all is a step without an update, so that one unlucky step does not end a long run.

        Raises:
            RewardError: If more than ``max_invalid_frac`` of the chains lost a score.
            RolloutError: If no group could be trained on for ``PATIENCE`` steps in a row.
        """
        counts, kept, seen = FilterCounts(), list[ScoredGroup](), list[ScoredGroup]()
        seconds = dict.fromkeys(STAGES, 0.0)
        allowed, versions = (1 + self.config.max_refills) * num_prompts, self.versions()
        while num := min(num_prompts - len(kept), allowed - len(seen)):
            groups = self._round(num)
            seen += groups
            for stage in STAGES:  # the groups of a round are made at once, the rounds one after another
                seconds[stage] += max(group.seconds[stage] for group in groups)
            kept += self._trainable(groups, versions, counts)
        if counts.invalid_frac > self.config.max_invalid_frac:
            raise RewardError(
                f"{counts.invalid_frac:.0%} of the chains lost a score (max_invalid_frac="
                f"{self.config.max_invalid_frac:g}); the reasons are in the run directory's chains/"
            )
        self._count_empty(len(kept), len(seen))
        self.step += 1
        metrics = reward_metrics(seen, self.config, self.terms) | rollout_metrics(seen)
        metrics |= {f"time/{stage}_s": seconds[stage] for stage in STAGES}
        return kept, counts.to_metrics() | metrics | staleness_metrics(seen, versions)

    def _trainable(
        self, groups: Sequence[ScoredGroup], versions: Mapping[str, int], counts: FilterCounts
    ) -> list[ScoredGroup]:
        """Return the groups worth an update, and count the others."""
        kept = []
        for group in groups:
            if staleness_of(group, versions) > self.config.max_staleness:
                counts.count(FilterResult.STALE)
                continue
            filtered = filter_group(group, self.config, self.terms)
            counts.add(group, filtered)
            if filtered.result is FilterResult.KEPT:
                kept.append(filtered.group)
        return kept

    def _count_empty(self, num_kept: int, num_seen: int) -> None:
        self.num_empty = 0 if num_kept else self.num_empty + 1
        if self.num_empty == PATIENCE:
            raise RolloutError(
                f"none of the groups of {PATIENCE} steps in a row could be trained on (group/dropped_* say why); "
                "raise group_size or max_refills, or look at the rewards"
            )
        if self.num_empty:
            logger.warning("none of %d groups can be trained on: a step without an update", num_seen)

    def _round(self, num: int) -> list[ScoredGroup]:
        prompts = [self.make_prompt(self.position + i) for i in range(num)]
        step = self.position // self.config.prompts_per_step  # refills count too; a resumed run gets the same
        self.position += num
        requests = [
            GroupRequest(prompt=p, draw=0, num_chains=self.config.group_size, grpo_step=step) for p in prompts
        ]
        groups = self._sample(requests)
        self.observe(self.step, requests, groups)
        return [with_overlong(group, self.config) for group in groups]

    def _sample(self, requests: Sequence[GroupRequest]) -> list[ScoredGroup]:
        for _ in range(MOST_REPAIRS):
            try:
                return run_groups(self.runners, requests, deadline_s=self.config.deadline_s)
            except (VlcotError, BaseExceptionGroup) as error:
                if self.repair is None or not losses_of(error):
                    raise
                self.repair(error)
        return run_groups(self.runners, requests, deadline_s=self.config.deadline_s)
