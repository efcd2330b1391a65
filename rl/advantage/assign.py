"""Assignment of advantages: a step's scores become a number for every chain and block.

Pure numpy. The rewards are gated and combined to columns (``rl.advantage.combine``), each column is compared with its
group or with the step's batch (``rl.advantage.baselines``), weighted, and put where it was earned. With
``combine=each`` a reward is normalised *before* it is weighted, so that one with a wide spread (slots, tags: about
0.15) does not drown one with a narrow spread (pictures: about 0.01).

Differs from the paper:
    ``credit="block"`` with ``combine="each"`` is ours. RealSR-R1's is ``credit="chain"``, ``combine="sum"``: one
    normalised sum for the whole chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from configs.schema import AdvantageConfig
from rl.advantage.baselines import Numbers, compare, whiten
from rl.advantage.combine import RewardTerm, columns_of
from rl.types import ScoredGroup

Advantages = dict[str, dict[int, float]]
"""Chain id -> index of the chain's block -> advantage."""


def assign_advantages(
    groups: Sequence[ScoredGroup],
    terms: Mapping[str, RewardTerm],
    block_names: Sequence[str],
    config: AdvantageConfig,
) -> Advantages:
    """Give every chain an advantage in each block.

    The groups come out of ``rl.advantage.filters``, which takes out the chains that a failed scorer costs. A score
    still invalid here is one whose failure is tolerated: it is left out of the statistics and is worth 0 to
    its chain.

    Args:
        groups: Scored groups of one step; their sizes may differ.
        terms: By reward.
        block_names: The chain's blocks in order.
        config: How rewards are combined, compared and scaled.

    Returns:
        For each chain of the groups, an advantage for every block, 0 where no reward judges it.

    Raises:
        ConfigError: If a reward judges a block the chain lacks, or none.
        RewardError: If a group lacks the scores of a weighted reward or of the gate.

    Source:
        ``rl.advantage.baselines`` lists the methods; Liu et al. 2026 (GDPO), eq. 4 to 7, for ``combine=each``.
    """
    sizes = [len(group.chains) for group in groups]
    actions = _num_actions(groups, block_names) if config.over == "actions" else None
    table = np.zeros((sum(sizes), len(block_names)), dtype=np.float64)
    for column in columns_of(groups, terms, block_names, config):
        weights = None if actions is None else actions[:, column.judged].sum(axis=1)
        earned = column.weight * compare(column.values, column.valid, sizes, config, weights)
        table[:, column.judged] += earned[:, None]
    if config.whiten:
        if actions is not None and config.credit == "chain":
            actions = np.broadcast_to(actions.sum(axis=1, keepdims=True), actions.shape)
        table = whiten(table, config.eps, actions)
    if config.clip:
        table = np.clip(table, -config.clip, config.clip)
    chains = (chain for group in groups for chain in group.chains)
    return {chain.chain_id: dict(enumerate(row.tolist())) for chain, row in zip(chains, table, strict=True)}


def _num_actions(groups: Sequence[ScoredGroup], block_names: Sequence[str]) -> Numbers:
    """Count the actions of every chain in every block, ``[n, blocks]``."""
    return np.asarray(
        [
            [sum(segment.num_actions.get(block, 0) for segment in chain.segments) for block in block_names]
            for group in groups
            for chain in group.chains
        ],
        dtype=np.float64,
    ).reshape(-1, len(block_names))
