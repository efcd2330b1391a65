"""Degradation reward: how many of the five degradation words the chain got right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from configs.schema import BlockConfig
from rewards.base import Missing, Need, Reward, Score
from rl.restoration.labels import slot_texts
from rl.restoration.names import LABELS, words_of
from rl.types import ChainView


class DegradationReward(Reward):
    """Slots that equal the reference, over the number of reference slots (five: blur, resize, noise, ...).

    The body is cut at commas; a slot is compared with the reference slot *at its place*, case, surrounding
    and repeated spaces ignored, and counts only where equal: "light blur" for "medium blur" is no match.
    Slots too many are ignored, slots too few do not match. A chain that never closed the block lacks the
    input.

    Differs from the paper: the released code has no degradation reward; the rule is read off the example in
    the paper's figure 2 (3 of 5 slots equal, reward 0.6).
    """

    needs = frozenset({Need.TEXT, LABELS})

    def __init__(self, block: str = "degradation") -> None:
        """Name the block.

        Args:
            block: The text block that lists the degradations.
        """
        self.block = block

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Return the share of right slots a chain."""
        return [self._score_one(chain) for chain in chains]

    def judged_blocks(self, chain: Mapping[str, BlockConfig]) -> tuple[str, ...]:
        """Only its own block."""
        return (self.block,)

    def _score_one(self, chain: ChainView) -> Score:
        body = chain.block_text.get(self.block)
        if body is None:
            return Missing(f"no <{self.block}> block")
        labels = [normalise(text) for text in slot_texts(words_of(chain.prompt, LABELS))]
        # zip: a missing slot matches nothing, a surplus one is not looked at.
        return sum(a == b for a, b in zip(slots(body), labels, strict=False)) / len(labels)


def slots(body: str) -> list[str]:
    """Cut a degradation text at its commas and normalise each slot."""
    return [normalise(slot) for slot in body.split(",")]


def normalise(text: str) -> str:
    """Lower the case, and shrink whitespace to single spaces."""
    return " ".join(text.lower().split())
