"""Format reward: 1 for a chain that is whole and has the paper's form, else 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from configs.schema import BlockConfig
from rewards.base import Need, Reward, Score
from rl.chain.grammar import full_match
from rl.errors import ConfigError
from rl.types import ChainView, Finish

REALSR_R1_BLOCKS = (
    "degradation",
    "rough_understand",
    "rough_image",
    "middle_understand",
    "middle_image",
    "final_understand",
    "final_image",
)


class FormatReward(Reward):
    """1 where the chain stopped by itself and its whole text matches the grammar of the blocks.

    Every text block earns it.

    Source:
        RealSR-R1's released ``format_reward``: ``re.fullmatch`` of the seven tags, DOTALL, lazy bodies.
    """

    needs = frozenset({Need.TEXT})

    def __init__(self, blocks: Sequence[str] = REALSR_R1_BLOCKS) -> None:
        """Set the grammar.

        Args:
            blocks: Names of the chain's blocks in order; the paper's seven by default.
        """
        self.blocks = tuple(blocks)

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Return 0 or 1 a chain."""
        return [float(c.finish is Finish.STOP and full_match(c.text, self.blocks)) for c in chains]

    def judged_blocks(self, chain: Mapping[str, BlockConfig]) -> tuple[str, ...]:
        """Every text block.

        Raises:
            ConfigError: If the chain has other blocks than the grammar: every chain would get 0.
        """
        if tuple(chain) != self.blocks:
            raise ConfigError(f"blocks: want the chain's own, [{', '.join(chain)}]")
        return super().judged_blocks(chain)
