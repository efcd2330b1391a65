"""What every reward made of a plain function has: the function, its constants, and what options declare of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.base import Reward
from rewards.plain.columns import check_bounds, parse_needs


class PlainReward(Reward):
    """A function, and what it cannot say of itself."""

    def __init__(
        self,
        function: Callable[..., Any],
        constants: Mapping[str, Any],
        *,
        low: float,
        high: float,
        missing: float,
        needs: Sequence[str],
    ) -> None:
        """Wrap; the arguments are those of the two signatures' rewards.

        Raises:
            ConfigError: If the range is empty or no number, or there is no such need.
        """
        check_bounds(low, high, missing)
        self.needs = parse_needs(needs)
        self.function = function
        self.constants = constants
        self.low, self.high = low, high
        self._missing = missing

    @property
    def missing(self) -> float:
        """Score of a chain it does not apply to."""
        return self._missing
