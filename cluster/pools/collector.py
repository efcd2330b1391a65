"""Collector of scored groups: submits prompts, keeps the groups that can be trained on, refills the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cluster.pools.chain_runner import GroupRequest
from cluster.pools.group_calls import GroupCalls
from cluster.runtime.calls import Worker, gather
from configs.schema import Config
from rl.advantage.combine import RewardTerm
from rl.advantage.filters import FilterCounts, FilteredGroup, FilterResult, filter_group, staleness_of
from rl.advantage.overlong import with_overlong
from rl.ahead import DataPosition, Draw, SamplingAhead
from rl.errors import RewardError, RolloutError
from rl.measure.metrics import reward_metrics, rollout_metrics, staleness_metrics
from rl.types import Metrics, Prompt, ScoredGroup

logger = logging.getLogger(__name__)

PATIENCE = 8
"""Steps in a row without any group to train on after which the run stops. One is bad luck."""

STAGES = ("rollout", "reward")
"""Of a group, by which its seconds are told."""

Observer = Callable[[int, Sequence[GroupRequest], Sequence[ScoredGroup]], None]
"""Sees the steps done before and every group as it was scored, before any filter."""


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


def sampling_ahead(config: Config, *, step: int, start: DataPosition) -> SamplingAhead:
    """Return the book of a run's draws, from a step on."""
    return SamplingAhead(
        size=config.prompts_per_step,
        max_refills=config.max_refills,
        max_ahead=config.max_staleness,
        is_ordered=config.deterministic,
        step=step,
        num_steps=config.num_steps,
        start=start,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """A draw's group: as it was asked for, as it was scored, and what the filters made of it."""

    request: GroupRequest
    scored: ScoredGroup
    judged: ScoredGroup
    """With the penalties for length."""
    filtered: FilteredGroup
    seconds: Mapping[str, float]
    """By stage, those of the dropped groups in whose place it is included."""


@dataclass(slots=True)
class GroupCollector:
    """The ``Collector`` port: groups in id order, those not worth an update replaced within a bound.

    Groups of the next ``max_staleness`` steps are sampled meanwhile (``rl.ahead``). A group that is dropped is
    replaced when it is dropped, also while the learners work.

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
    calls: GroupCalls
    observe: Observer
    ahead: SamplingAhead
    """Read and changed under the calls' lock."""
    num_empty: int = field(default=0, init=False)
    """Steps in a row without any group to train on."""
    _answered: dict[Draw, _Answered] = field(default_factory=dict, init=False)

    @property
    def data_position(self) -> DataPosition:
        """Where a run goes on that has trained what was collected."""
        with self.calls.lock:
            return self.ahead.data_position

    def next(self) -> tuple[Sequence[ScoredGroup], Metrics]:
        """Return a step's trainable groups, fewer than ``prompts_per_step`` only where the refills are used up.

        Call it when the newest weights are with the rollout workers. At most ``max_refills * prompts_per_step``
        further prompts are drawn, one for each group that is dropped. No group at all is a step without an update,
        so that one unlucky step does not end a long run.

        Raises:
            RewardError: If more than ``max_invalid_frac`` of the chains lost a score.
            RolloutError: If no group could be trained on for ``PATIENCE`` steps in a row.
        """
        step = self.ahead.step
        with self.calls.lock:
            self._sample(self.ahead.open(), dict.fromkeys(STAGES, 0.0))
        self.calls.wait_until(lambda: self.ahead.is_complete)
        with self.calls.lock:
            answered = [self._answered.pop(draw) for draw in self.ahead.take()]
        self.observe(step, [one.request for one in answered], [one.scored for one in answered])
        counts, versions = FilterCounts(), self.versions()
        for one in answered:
            counts.add(one.judged, one.filtered)
        kept = [one.filtered.group for one in answered if one.filtered.result is FilterResult.KEPT]
        self._check(kept, counts, versions, num_seen=len(answered))
        slowest = max((one.seconds for one in answered), key=lambda seconds: sum(seconds.values()))
        seen = [one.judged for one in answered]
        metrics = reward_metrics(seen, self.config, self.terms) | rollout_metrics(seen)
        metrics |= {f"time/{stage}_s": slowest[stage] for stage in STAGES}
        return kept, counts.to_metrics() | metrics | staleness_metrics(seen, versions)

    def settle(self) -> None:
        """Wait until nothing is being sampled: weights that are published then write nothing that was begun before."""
        self.calls.wait_until(lambda: self.calls.is_idle)

    def _sample(self, draws: Sequence[Draw], before: Mapping[str, float]) -> None:
        """Have groups sampled; ``before``: seconds by stage of the group that was dropped for them."""
        for draw in draws:
            request = GroupRequest(
                prompt=self.make_prompt(draw.position),
                draw=0,
                num_chains=self.config.group_size,
                grpo_step=draw.grpo_step,
            )
            self.calls.ask(request, partial(self._take_in, draw, request, before))

    def _take_in(
        self, draw: Draw, request: GroupRequest, before: Mapping[str, float], scored: ScoredGroup
    ) -> None:
        """Filter a group when it comes, and have another sampled where it is dropped."""
        judged = with_overlong(scored, self.config)
        filtered = filter_group(judged, self.config, self.terms)
        seconds = {stage: before[stage] + scored.seconds[stage] for stage in STAGES}
        self._answered[draw] = _Answered(
            request=request, scored=scored, judged=judged, filtered=filtered, seconds=seconds
        )
        if filtered.result is FilterResult.KEPT:
            self.ahead.keep(draw)
        else:
            self._sample(self.ahead.drop(draw), seconds)

    def _check(
        self, kept: Sequence[ScoredGroup], counts: FilterCounts, versions: Mapping[str, int], *, num_seen: int
    ) -> None:
        if counts.invalid_frac > self.config.max_invalid_frac:
            raise RewardError(
                f"{counts.invalid_frac:.0%} of the chains lost a score (max_invalid_frac="
                f"{self.config.max_invalid_frac:g}); the reasons are in the run directory's chains/"
            )
        for group in kept:
            if (age := staleness_of(group, versions)) > self.config.max_staleness:
                raise RolloutError(
                    f"{group.group_id}: written by weights {age} versions old (max_staleness="
                    f"{self.config.max_staleness}): a rollout worker did not take the weights it was sent"
                )
        self.num_empty = 0 if kept else self.num_empty + 1
        if self.num_empty == PATIENCE:
            raise RolloutError(
                f"none of the groups of {PATIENCE} steps in a row could be trained on (group/dropped_* say why); "
                "raise group_size or max_refills, or look at the rewards"
            )
        if self.num_empty:
            logger.warning("none of %d groups can be trained on: a step without an update", num_seen)
