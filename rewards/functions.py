"""Plain reward functions in TRL's form: ``f(prompts=, completions=, **columns) -> list[float]``, unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rewards.base import Missing, Need, Reward, Score
from rl.types import ChainView


class FunctionReward(Reward):
    """A function as a reward.

    The columns it is given, one entry a chain: ``prompts`` (the group's id: chains of one prompt share it),
    ``completions`` (everything written, tags included), ``chain_id``, ``finish``, ``block_text``, ``labels``,
    ``tags``, ``degraded``, ``final_picture`` and ``truth`` (``uint8[H, W, 3]`` or None). A function must take
    ``**kwargs`` for those it has no use for. ``None`` in its answer means, as in TRL, that it does not apply.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        low: float = -math.inf,
        high: float = math.inf,
        missing: float = 0.0,
        needs: Sequence[str] = ("text",),
        **constants: Any,
    ) -> None:
        """Wrap.

        Args:
            function: Takes keyword arguments only.
            low: Lowest score it may return; unbounded by default, as functions declare nothing.
            high: Highest score it may return.
            missing: Score of a chain it does not apply to.
            needs: Inputs without which it is not asked, by ``Need``'s values.
            constants: Passed on to every call.
        """
        self.function = function
        self.low, self.high = low, high
        self.needs = frozenset(Need(need) for need in needs)
        self.constants = constants
        self._missing = missing

    @property
    def missing(self) -> float:
        """Score of a chain it does not apply to."""
        return self._missing

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Call the function once."""
        answers = self.function(
            prompts=[chain.group_id for chain in chains],
            completions=[chain.text for chain in chains],
            chain_id=[chain.chain_id for chain in chains],
            finish=[str(chain.finish) for chain in chains],
            block_text=[dict(chain.block_text) for chain in chains],
            labels=[list(chain.reference.labels) for chain in chains],
            tags=[list(chain.reference.tags) for chain in chains],
            degraded=[chain.degraded for chain in chains],
            final_picture=[chain.final_picture for chain in chains],
            truth=[chain.reference.photo for chain in chains],
            **self.constants,
        )
        return [Missing("the function returned None") if answer is None else answer for answer in answers]
