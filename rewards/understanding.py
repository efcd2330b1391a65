"""Understanding reward: how many of the things in the photograph the chain named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from configs.schema import BlockConfig
from rewards.base import Missing, Need, Reward, Score
from rl.restoration.names import TAGS, words_of
from rl.types import ChainView


class UnderstandingReward(Reward):
    """Share of the reference tags that occur in the coarse understanding.

    Case and the number of spaces do not matter; a tag counts once, and only as whole words: "rock" is not in
    "rocket", and "lions" is not "lion". A prompt without tags, or a chain that never closed the block, lacks the
    input: 0, counted as missing. Then a whole group has equal scores and learns nothing from them.

    Differs from the released code, unless ``substring`` is set: that counts any substring, and divides by 0
    for a prompt without tags.

    Source:
        RealSR-R1's released ``tag_reward``; figure 2 (3 of 4 tags, reward 0.75).
    """

    needs = frozenset({Need.TEXT, TAGS})

    def __init__(self, block: str = "rough_understand", *, substring: bool = False) -> None:
        """Choose the rule.

        Args:
            block: The text block that names what the photograph shows.
            substring: Count a tag inside a longer word too, as the released code does.
        """
        self.block = block
        self.substring = substring

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Return the share of tags found a chain."""
        return [self._score_one(chain) for chain in chains]

    def judged_blocks(self, chain: Mapping[str, BlockConfig]) -> tuple[str, ...]:
        """Only its own block."""
        return (self.block,)

    def _score_one(self, chain: ChainView) -> Score:
        body = chain.block_text.get(self.block)
        if body is None:
            return Missing(f"no <{self.block}> block")
        text = " ".join(body.lower().split())
        tags = {" ".join(tag.lower().split()) for tag in words_of(chain.prompt, TAGS)} - {""}
        if not tags:
            return Missing("all tags are empty")
        return sum(self._occurs(tag, text) for tag in tags) / len(tags)

    def _occurs(self, tag: str, text: str) -> bool:
        if self.substring:
            return tag in text
        return re.search(rf"(?<!\w){re.escape(tag)}(?!\w)", text) is not None
