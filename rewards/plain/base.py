"""Base of rewards made of plain functions: the function, its constants, and what options declare of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from configs.suggest import suggest
from rewards.base import Reward
from rewards.plain.columns import check_bounds, parse_needs
from rl.errors import ConfigError


class PlainReward(Reward):
    """A function, and what it cannot say of itself."""

    def __init__(
        self,
        function: Callable[..., Any],
        constants: Mapping[str, Any],
        *,
        columns: Collection[str],
        low: float,
        high: float,
        missing: float,
        needs: Sequence[str],
    ) -> None:
        """Wrap; the arguments are those of the two signatures' rewards, and the prompt's columns that it names.

        Raises:
            ConfigError: If the range is empty or no number, or there is no such need.
        """
        check_bounds(low, high, missing)
        self.needs = parse_needs(needs)
        self.function = function
        self.constants = constants
        self.columns = frozenset(columns)
        self.low, self.high = low, high
        self._missing = missing

    @property
    def missing(self) -> float:
        """Score of a chain it does not apply to."""
        return self._missing

    def check_prompt(self, names: Collection[str]) -> None:
        """Refuse needs and columns that the run's prompts do not have, and constants that they do."""
        super().check_prompt(names)
        for column in sorted(self.columns):
            if column not in names:
                raise ConfigError(
                    f"{self.function.__name__}() wants {column!r}, which the run's prompts do not have"
                    f"{suggest(column, names)}; options can be its constants"
                )
        for constant in self.constants:
            if constant in names:
                raise ConfigError(f"{constant!r} is told in every call, it cannot be set")
