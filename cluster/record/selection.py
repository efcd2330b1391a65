"""Selection of chains that are kept for people to look at: a step's first group, and the extremes of every reward."""

from __future__ import annotations

from collections.abc import Sequence

from configs.schema import Config
from rl.types import ScoredGroup

Place = tuple[int, int]
"""Group and chain."""


def chains_to_record(groups: Sequence[ScoredGroup], names: Sequence[str]) -> list[Place]:
    """Choose chains: the first group, so that a group can be looked at, then each reward's best and worst chain.

    Args:
        groups: As scored.
        names: Rewards, in order of importance.

    Returns:
        Every place once. Among equals the first chain; invalid scores are no extreme.
    """
    places = [(0, index) for index in range(len(groups[0].chains))] if groups else []
    for name in names:
        scored = [
            (float(group.scores[name].values[index]), (number, index))
            for number, group in enumerate(groups)
            for index in range(len(group.chains))
            if group.scores[name].valid[index]
        ]
        if scored:
            places.append(min(scored, key=lambda one: (-one[0], one[1]))[1])
            places.append(min(scored)[1])
    return list(dict.fromkeys(places))


def most_recorded(config: Config) -> int:
    """Return the most training chains that are recorded of a step."""
    return config.group_size + 2 * len(config.rewards)
