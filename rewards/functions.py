"""Plain reward functions in TRL's form: ``f(prompts=, completions=, **columns) -> list[float]``, unchanged."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.base import Missing, Need, Reward, Score
from rewards.suggest import suggest
from rl.errors import ConfigError
from rl.types import ChainView

COLUMNS: dict[str, Callable[[ChainView], Any]] = {
    "prompts": lambda chain: chain.group_id,
    "completions": lambda chain: chain.text,
    "chain_id": lambda chain: chain.chain_id,
    "finish": lambda chain: str(chain.finish),
    "block_text": lambda chain: dict(chain.block_text),
    "labels": lambda chain: list(chain.reference.labels),
    "tags": lambda chain: list(chain.reference.tags),
    "degraded": lambda chain: chain.degraded,
    "final_picture": lambda chain: chain.final_picture,
    "truth": lambda chain: chain.reference.photo,
}
"""Keyword arguments of every call, lists with one entry a chain. ``prompts`` holds the group's id, which chains
of one prompt share; ``completions`` everything written, tags included; pictures are ``uint8[H, W, 3]`` or None."""
_OPTIONS = ("low", "high", "missing", "needs")


class FunctionReward(Reward):
    """A function as a reward.

    It is given the ``COLUMNS``, and must take ``**kwargs`` for those it has no use for. ``None`` in its answer
    means, as in TRL, that it does not apply.
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
            function: Takes keyword arguments.
            low: Lowest score it may return; unbounded by default, as functions declare nothing.
            high: Highest score it may return.
            missing: Score of a chain it does not apply to.
            needs: Inputs without which it is not asked, by ``Need``'s values.
            constants: Passed on to every call; parameters of the function by name.

        Raises:
            ConfigError: If the function cannot be called so, or there is no such need.
        """
        _check_call(function, constants)
        for key, number in {"low": low, "high": high, "missing": missing}.items():
            if not isinstance(number, int | float):
                raise ConfigError(f"{key}: want a number, got {number!r}")
        for need in needs:
            if need not in list(Need):
                raise ConfigError(f"needs: no input {need!r}{suggest(need, Need)}")
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
        columns = {name: [read(chain) for chain in chains] for name, read in COLUMNS.items()}
        answers = self.function(**columns, **self.constants)
        return [Missing("the function returned None") if answer is None else answer for answer in answers]


def _check_call(function: Callable[..., Any], constants: Mapping[str, Any]) -> None:
    """Refuse a function that the call would not fit, and options that are nobody's."""
    name = getattr(function, "__name__", repr(function))
    signature = inspect.signature(function)
    for option in constants:
        if option in COLUMNS:
            raise ConfigError(f"{option!r} is a column of every call, it cannot be set")
        if option not in signature.parameters:
            near = suggest(option, [*_OPTIONS, *signature.parameters])
            raise ConfigError(f"{option!r} is no parameter of {name}(){near}")
    try:
        signature.bind(**dict.fromkeys((*COLUMNS, *constants)))
    except TypeError as error:
        raise ConfigError(
            f"{name}() cannot be called with {', '.join(COLUMNS)}: {error}; add **kwargs"
        ) from error
