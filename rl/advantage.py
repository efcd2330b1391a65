"""From scores to advantages: who earned how much, compared with the others of the group.

Pure numpy. Letters: G chains of a group. Each reward is normalised within its group *before* it is weighted,
so that a reward with a wide spread (slots, tags: about 0.15) does not drown one with a narrow spread
(pictures: about 0.01), and it reaches only the blocks it judges.

Differs from the paper:
    ``credit="block"`` is ours. ``credit="chain"`` is the paper's: one normalised sum for the whole chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from rl.errors import ConfigError, RewardError
from rl.types import Bools, Floats, ScoredGroup

Advantages = dict[str, dict[int, float]]
"""Chain id -> index of the chain's block -> advantage."""


def normalise(values: Floats, valid: Bools, *, eps: float) -> Floats:
    """Compare the members of a group with each other.

    Args:
        values: ``[G]``, any unit; undefined where not valid.
        valid: ``[G]``: False entries take no part and get 0, the value of an average member.
        eps: Added to the standard deviation, in the values' unit.

    Returns:
        ``(values - mean) / (std + eps)``, ``[G]``, with the unbiased deviation; 0 for fewer than two members.

    Source:
        Shao et al. 2024 (GRPO), section 4.1.2; unbiased deviation and eps as in RealSR-R1's released trainer.
    """
    out = np.zeros(values.shape, dtype=np.float64)
    members = values[valid].astype(np.float64)
    if members.size >= 2:
        out[valid] = (members - members.mean()) / (members.std(ddof=1) + eps)
    return out.astype(np.float32)


def total_reward(group: ScoredGroup, weights: Mapping[str, float]) -> Floats:
    """Sum a group's weighted raw scores, ``[G]``.

    An invalid score counts as the mean of the group's valid ones, so that it neither helps nor harms the
    chain.
    """
    total = np.zeros(len(group.chains), dtype=np.float64)
    for name, weight in weights.items():
        if weight:
            scores = group.scores[name]
            mean = float(scores.values[scores.valid].mean()) if scores.valid.any() else 0.0
            total += weight * np.where(scores.valid, scores.values, mean)
    return total.astype(np.float32)


def assign_advantages(
    groups: Sequence[ScoredGroup],
    *,
    weights: Mapping[str, float],
    judged_blocks: Mapping[str, Sequence[str]],
    block_names: Sequence[str],
    credit: Literal["block", "chain"],
    eps: float,
) -> Advantages:
    """Give every chain an advantage in each block.

    The groups come out of ``rl.filters``, which takes out the chains that a failed scorer costs. A score
    still invalid here is one whose failure is tolerated: it is left out of the statistics and is worth 0 to
    its chain.

    Args:
        groups: Scored groups.
        weights: By reward; 0 is only measured.
        judged_blocks: Blocks each reward gives credit to; not used where ``credit`` is ``chain``.
        block_names: The chain's blocks in order.
        credit: ``block``: each reward, normalised, goes to the blocks it judges. ``chain``: one normalised
            sum of raw scores goes to all.
        eps: Added to a group's standard deviation.

    Returns:
        For each chain of the groups, an advantage for every block, 0 where no reward judges it.

    Raises:
        ConfigError: If a reward judges a block the chain lacks, or none.
        RewardError: If a group lacks the scores of a weighted reward.
    """
    if credit == "block":
        _check_judged(weights, judged_blocks, block_names)
    num_blocks = len(block_names)
    advantages: Advantages = {}
    for group in groups:
        lacking = sorted(name for name, weight in weights.items() if weight and name not in group.scores)
        if lacking:
            raise RewardError(f"group {group.group_id} has no scores of {lacking}")
        if credit == "chain":
            everyone = np.ones(len(group.chains), dtype=np.bool_)
            column = normalise(total_reward(group, weights), everyone, eps=eps)
            table = np.repeat(column[:, None], num_blocks, axis=1)
        else:
            table = _table_by_block(group, weights, judged_blocks, block_names, eps)
        for chain, row in zip(group.chains, table, strict=True):
            advantages[chain.chain_id] = dict(enumerate(row.tolist()))
    return advantages


def _table_by_block(
    group: ScoredGroup,
    weights: Mapping[str, float],
    judged_blocks: Mapping[str, Sequence[str]],
    block_names: Sequence[str],
    eps: float,
) -> Floats:
    """Advantages of one group, ``[G, blocks]``."""
    table = np.zeros((len(group.chains), len(block_names)), dtype=np.float32)
    for name, weight in weights.items():
        if weight:
            scores = group.scores[name]
            judged = [block in judged_blocks[name] for block in block_names]
            table[:, judged] += weight * normalise(scores.values, scores.valid, eps=eps)[:, None]
    return table


def _check_judged(
    weights: Mapping[str, float], judged_blocks: Mapping[str, Sequence[str]], block_names: Sequence[str]
) -> None:
    for name, weight in weights.items():
        judged = judged_blocks.get(name, ())
        unknown = [block for block in judged if block not in block_names]
        if unknown or (weight and not judged):
            raise ConfigError(
                f"rewards.{name}.blocks: want some of the chain's {list(block_names)}, got {list(judged)}"
            )
