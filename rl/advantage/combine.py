"""Combination of rewards into the columns that are compared: gate, weighted sum, blocks that earn it.

Pure numpy. A column is one quantity over chains, larger is better: one reward (``combine=each``), or a weighted
sum of rewards (``combine=sum``). Filters and advantages look at the same columns, so that a group is dropped
exactly where nothing of it would be trained. Letters: n chains of one or more groups, G chains of one group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from configs.schema import AdvantageConfig
from rl.errors import ConfigError, RewardError
from rl.types import Bools, ScoredGroup, Scores

SPREAD_TOLERANCE = 1e-6
"""Scores this close, relative to the largest, are equal: batched scorers differ in the last digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerm:
    """What the combination must know of a reward. Values are oriented: larger is better.

    A term's name is its reward's; ``name.block`` is the part of ``name`` that one block earns.
    """

    weight: float
    """Factor; 0 is only measured (or only gates)."""
    blocks: tuple[str, ...]
    """Blocks that earn it where credit is by block."""
    best: float = np.inf
    """Top of the declared range: what a chain must reach where the reward is the gate."""
    missing: float | None = None
    """What a gated chain gets instead; None: the gate leaves this reward alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One quantity that is compared between chains."""

    values: NDArray[np.float64]
    """``[n]``; 0 where not valid."""
    valid: Bools
    """``[n]``: False entries take no part."""
    weight: float
    """Factor on its advantage."""
    judged: Bools
    """``[blocks]``: True for blocks that earn it."""
    rounding: float
    """Differences up to this are no spread."""

    @property
    def has_spread(self) -> bool:
        """Whether it tells the chains apart."""
        members = self.values[self.valid]
        return members.size >= 2 and bool(np.ptp(members) > self.rounding)


def columns_of(
    groups: Sequence[ScoredGroup],
    terms: Mapping[str, RewardTerm],
    block_names: Sequence[str],
    config: AdvantageConfig,
) -> list[Column]:
    """Gate and combine the rewards of groups.

    Args:
        groups: Scored groups; their chains are the rows, in order.
        terms: By reward.
        block_names: The chain's blocks in order.
        config: Its ``gate``, ``combine`` and ``credit``.

    Returns:
        ``combine=each``: a column a weighted reward. ``combine=sum``: one for the whole chain, or one a block of
        the rewards that judge it. An invalid score is no member of its own column; in a sum it counts as the
        mean of its group's valid ones, so that it neither helps nor harms the chain.

    Raises:
        ConfigError: If a weighted reward judges no block, or one the chain lacks.
        RewardError: If a group lacks the scores of a weighted reward or of the gate.
    """
    weighted = {name: term for name, term in terms.items() if term.weight}
    by_block = config.credit == "block"
    if by_block:
        _check_judged(weighted, block_names)
    _check_scores(groups, {*weighted, *filter(None, [config.gate])})
    gated = [apply_gate(group, terms, config.gate) for group in groups]
    every = np.ones(len(block_names), dtype=np.bool_)
    judged = {
        name: np.isin(block_names, term.blocks) if by_block else every for name, term in weighted.items()
    }
    if config.combine == "each":
        return [_one(gated, name, term, judged[name]) for name, term in weighted.items()]
    if not by_block:
        return [_sum(gated, weighted, every)]
    columns = []
    for index, block in enumerate(np.eye(len(block_names), dtype=np.bool_)):
        if terms_here := {name: term for name, term in weighted.items() if judged[name][index]}:
            columns.append(_sum(gated, terms_here, block))
    return columns


def total_reward(group: ScoredGroup, terms: Mapping[str, RewardTerm]) -> NDArray[np.float64]:
    """Sum a group's weighted raw scores, ``[G]``; an invalid one counts as the mean of the valid ones."""
    total = np.zeros(len(group.chains), dtype=np.float64)
    for name, term in terms.items():
        if term.weight:
            scores = group.scores[name]
            known = scores.values[scores.valid].astype(np.float64)
            total += term.weight * np.where(scores.valid, scores.values, known.mean() if known.size else 0.0)
    return total


def apply_gate(group: ScoredGroup, terms: Mapping[str, RewardTerm], gate: str) -> ScoredGroup:
    """Take the other rewards away from chains that miss the gate.

    Where the gate's reward is below its best, every other reward with a ``missing`` value gets that value.
    Validity stays: a score that a scorer owes is still owed. A chain whose gate score is invalid passes.

    Args:
        group: As scored.
        terms: By reward.
        gate: Name of a reward; '' lets all pass.

    Source:
        Liu et al. 2026 (GDPO), section 3.2, eq. 8: a reward counts only where the one it is conditioned on is
        reached. There the rest is 0, here it is what a chain without the input would get.
    """
    if not gate:
        return group
    gate_scores, best = group.scores[gate], terms[gate].best
    misses = gate_scores.valid & (gate_scores.values < best - SPREAD_TOLERANCE * max(1.0, abs(best)))
    if not misses.any():
        return group
    scores = dict(group.scores)
    for name, term in terms.items():
        if name != gate and name in scores and term.missing is not None:
            old = scores[name]
            values = np.where(misses & old.valid, np.float32(term.missing), old.values)
            scores[name] = replace(old, values=values)
    return replace(group, scores=scores)


def rounding_of(scores: Scores) -> float:
    """Return the largest difference between a reward's scores that means nothing, in its unit."""
    known = scores.values[scores.valid]
    return SPREAD_TOLERANCE * max(1.0, float(np.abs(known).max(initial=0.0)))


def _one(groups: Sequence[ScoredGroup], name: str, term: RewardTerm, judged: Bools) -> Column:
    scores = [group.scores[name] for group in groups]
    valid = np.concatenate([np.zeros(0, np.bool_), *(one.valid for one in scores)])
    values = np.concatenate([np.zeros(0, np.float64), *(one.values for one in scores)])
    return Column(
        values=np.where(valid, values, 0.0),
        valid=valid,
        weight=term.weight,
        judged=judged,
        rounding=max(map(rounding_of, scores), default=0.0),
    )


def _sum(groups: Sequence[ScoredGroup], terms: Mapping[str, RewardTerm], judged: Bools) -> Column:
    values = np.concatenate([np.zeros(0, np.float64), *(total_reward(group, terms) for group in groups)])
    rounding = [
        sum(term.weight * rounding_of(group.scores[name]) for name, term in terms.items()) for group in groups
    ]
    return Column(
        values=values,
        valid=np.ones(values.shape, dtype=np.bool_),
        weight=1.0,
        judged=judged,
        rounding=max(rounding, default=0.0),
    )


def _check_judged(weighted: Mapping[str, RewardTerm], block_names: Sequence[str]) -> None:
    for name, term in weighted.items():
        if not term.blocks or not set(term.blocks) <= set(block_names):
            raise ConfigError(
                f"rewards.{name}.blocks: want some of the chain's {list(block_names)}, got {list(term.blocks)}"
            )


def _check_scores(groups: Sequence[ScoredGroup], wanted: set[str]) -> None:
    for group in groups:
        if lacking := sorted(wanted - set(group.scores)):
            raise RewardError(f"group {group.group_id} has no scores of {lacking}")
