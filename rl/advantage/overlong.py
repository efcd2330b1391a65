"""Overlong text blocks: DAPO's soft punishment of those that nearly run out of tokens, or its mask.

Pure. A block's length is its number of sampled tokens, its tags included, as in ``chain.<block>.max_tokens``. The
punishment is a pseudo-reward: ``overlong.<block>`` for each text block enters the combination with weight 1,
their sum ``overlong`` is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from configs.schema import Config
from rl.advantage.combine import RewardTerm
from rl.advantage.scores import known
from rl.types import Chain, Finish, Floats, ScoredGroup

OVERLONG = "overlong"
"""Name of the pseudo-reward."""
ROOM = 0.2
"""Share of a block's tokens over which the punishment rises; DAPO's 4,096 of 20,480."""


def soft_penalty(num_tokens: int, max_tokens: int) -> float:
    """Return 0 up to four fifths of the room, -1 at its end, linear in between.

    Args:
        num_tokens: Tokens written.
        max_tokens: Most that may be.

    Source:
        Yu et al. 2025 (DAPO), eq. 13, with L_max ``max_tokens`` and L_cache a fifth of it.
    """
    start = (1 - ROOM) * max_tokens
    return -min(1.0, max(0.0, (num_tokens - start) / (max_tokens - start)))


def overlong_terms(config: Config) -> dict[str, RewardTerm]:
    """Return the pseudo-reward's terms, one a text block; none unless ``overlong=punish``.

    A gate leaves them alone: a chain that ran out of tokens misses most gates, and is punished for its length.
    """
    if config.overlong != "punish":
        return {}
    return {_part(block): RewardTerm(weight=1.0, blocks=(block,), best=0.0) for block in _text_blocks(config)}


def with_overlong(group: ScoredGroup, config: Config) -> ScoredGroup:
    """Add the punishment to a group's scores; nothing unless ``overlong=punish``."""
    if config.overlong != "punish":
        return group
    parts = {
        block: np.asarray([soft_penalty(_length(chain, block), room) for chain in group.chains], np.float32)
        for block, room in _text_blocks(config).items()
    }
    total: Floats = np.sum(list(parts.values()), axis=0, dtype=np.float32)
    named = {OVERLONG: total} | {_part(block): values for block, values in parts.items()}
    scores = {name: known(name, values) for name, values in named.items()}
    return replace(group, scores={**group.scores, **scores})


def masked_blocks(chain: Chain, config: Config) -> frozenset[str]:
    """Name the blocks whose actions are not trained: with ``overlong=mask``, the one that ran out of tokens.

    It is the last text block the chain has actions in.

    Source:
        Yu et al. 2025 (DAPO), section 3.4, overlong filtering.
    """
    if config.overlong != "mask" or chain.finish is not Finish.LENGTH:
        return frozenset()
    written = [block for block in _text_blocks(config) if _length(chain, block)]
    return frozenset(written[-1:])


def _text_blocks(config: Config) -> Mapping[str, int]:
    return {name: block.max_tokens for name, block in config.chain.items() if block.kind == "text"}


def _part(block: str) -> str:
    return f"{OVERLONG}.{block}"


def _length(chain: Chain, block: str) -> int:
    return sum(segment.num_actions.get(block, 0) for segment in chain.segments)
