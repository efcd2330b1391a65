"""Filters: chains and groups that are not worth an update are taken out and counted.

Pure. A group written by weights that are too old is not looked into; a scorer's failure costs what its reward's
``on_failure`` says; a group of fewer than two chains has nothing to compare; a group whose rewards, gated and
combined as they are trained, are all equal has no advantage to learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from configs.schema import Config
from rl.advantage.baselines import WITHIN_GROUP
from rl.advantage.combine import RewardTerm, columns_of, rounding_of
from rl.advantage.scores import take
from rl.errors import RewardError
from rl.types import Bools, Metrics, ScoredGroup, Scores


class FilterResult(StrEnum):
    """What became of a group."""

    KEPT = "kept"
    """Trained."""
    INVALID = "invalid"
    """Too few scored chains."""
    ZERO_SPREAD = "zero_spread"
    """All chains are worth the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilteredGroup:
    """A group after the filters."""

    group: ScoredGroup
    """Without the chains that a failed scorer cost."""
    result: FilterResult
    num_invalid: int
    """Chains that lost a score, whatever that cost them."""


def filter_group(group: ScoredGroup, config: Config, terms: Mapping[str, RewardTerm]) -> FilteredGroup:
    """Apply every reward's failure policy, then look for spread.

    Args:
        group: As scored, pseudo-rewards included.
        config: Its ``rewards``: those with weight 0 never cost a chain, unless they ``raise`` or are the gate.
            Its ``advantage`` and ``chain``: spread is judged on what is trained.
        terms: By reward.

    Returns:
        The group to train on if ``result`` is KEPT. Scores still invalid in it belong to rewards whose failure
        is tolerated.

    Raises:
        RewardError: If a reward with ``on_failure=raise`` failed; the message has the scorer's reason.
    """
    keep = np.ones(len(group.chains), dtype=np.bool_)
    for name, reward in config.rewards.items():
        scores = group.scores[name]
        if scores.valid.all():
            continue
        if reward.on_failure == "raise":
            first = int(np.argmin(scores.valid))
            raise RewardError(f"reward {name}, {group.chains[first].chain_id}: {scores.reasons[first]}")
        is_used = reward.weight or name == config.advantage.gate
        if is_used and reward.on_failure == "drop_chain":
            keep &= scores.valid
        elif is_used and reward.on_failure == "drop_group":
            keep[:] = False
    kept = select(group, keep)
    if len(kept.chains) < 2:
        result = FilterResult.INVALID
    elif config.advantage.baseline not in WITHIN_GROUP or tells_apart(kept, config, terms):
        # Against the batch a group of equals is worth something too: all of it better or worse than others.
        result = FilterResult.KEPT
    else:
        result = FilterResult.ZERO_SPREAD
    return FilteredGroup(group=kept, result=result, num_invalid=int(np.sum(~group.valid)))


def tells_apart(group: ScoredGroup, config: Config, terms: Mapping[str, RewardTerm]) -> bool:
    """Whether the rewards, gated and combined as they are trained, tell the chains of a group apart."""
    columns = columns_of([group], terms, tuple(config.chain), config.advantage)
    return any(column.has_spread for column in columns)


def has_spread(scores: Scores) -> bool:
    """Whether one reward, as scored, tells the chains of a group apart."""
    values = scores.values[scores.valid]
    return values.size >= 2 and bool(np.ptp(values) > rounding_of(scores))


def staleness_of(group: ScoredGroup, versions: Mapping[str, int]) -> int:
    """Return how many published versions the oldest weights that wrote a group are behind the newest.

    Args:
        group: Its chains know the lowest version of each policy that wrote in them.
        versions: The learners' present versions by policy; a policy that nobody trains is never old.

    Returns:
        0 for a group that the present weights wrote.
    """
    return max(
        (
            versions[policy] - lowest
            for chain in group.chains
            for policy, (lowest, _) in chain.versions.items()
            if policy in versions
        ),
        default=0,
    )


def select(group: ScoredGroup, keep: Bools) -> ScoredGroup:
    """Return the group with some of its chains, ``keep`` being ``bool[G]``."""
    if keep.all():
        return group
    rows = np.flatnonzero(keep)
    return ScoredGroup(
        group_id=group.group_id,
        prompt_id=group.prompt_id,
        chains=tuple(group.chains[row] for row in rows),
        scores={name: take(scores, rows.tolist()) for name, scores in group.scores.items()},
        seconds=group.seconds,
    )


@dataclass(slots=True)
class FilterCounts:
    """What the filters did in one step."""

    kept: int = 0
    invalid: int = 0
    zero_spread: int = 0
    num_chains: int = 0
    """Chains seen."""
    num_invalid_chains: int = 0

    def add(self, group: ScoredGroup, filtered: FilteredGroup) -> None:
        """Count one group as it came and as it left."""
        setattr(self, filtered.result.value, getattr(self, filtered.result.value) + 1)
        self.num_chains += len(group.chains)
        self.num_invalid_chains += filtered.num_invalid

    @property
    def invalid_frac(self) -> float:
        """Share of the chains seen that lost a score, 0..1; compare with ``max_invalid_frac``."""
        return self.num_invalid_chains / max(self.num_chains, 1)

    def to_metrics(self) -> Metrics:
        """Return the counts under their metric names."""
        num_groups = self.kept + self.invalid + self.zero_spread
        return {
            "group/kept_frac": self.kept / max(num_groups, 1),
            "group/dropped_invalid": float(self.invalid),
            "group/dropped_zero_spread": float(self.zero_spread),
            "rollout/failed_frac": self.invalid_frac,
        }
