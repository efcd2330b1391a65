"""Understanding reward: how many of the things in the photograph the chain named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from configs.schema import BlockConfig
from rewards.base import Missing, Need, Reward, Score
from rl.restoration.names import TAGS, words_of
from rl.types import ChainView

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    "\u3005-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Characters of scripts that put no spaces between words, as ranges of a regular expression."""
_SPACED_LETTER = rf"[^\W{_UNSPACED}]"
"""A letter, digit or underscore of the other scripts: beside one, a word goes on."""


class UnderstandingReward(Reward):
    """Share of the reference tags that occur in the coarse understanding.

    Case and the number of spaces do not matter; a tag counts once, and only as whole words: "rock" is not in
    "rocket", and "lions" is not "lion". Scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese) are matched by characters. A prompt without tags, or a chain that never closed the block, lacks the
    input: 0, counted as missing. Then a whole group has equal scores and learns nothing from them.

    Differs from the released code, also where ``substring`` is set: that counts a tag as often as it is listed,
    takes its spaces as they stand (so that " rock" is not at the start of a text), and divides by 0 for a prompt
    without tags. Unless ``substring`` is set it also differs in that that code counts any substring.

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
        before = "" if _is_unspaced(tag[0]) else f"(?<!{_SPACED_LETTER})"
        after = "" if _is_unspaced(tag[-1]) else f"(?!{_SPACED_LETTER})"
        return re.search(f"{before}{re.escape(tag)}{after}", text) is not None


def _is_unspaced(character: str) -> bool:
    """Whether a character is of a script that puts no spaces between words."""
    return re.match(f"[{_UNSPACED}]", character) is not None
