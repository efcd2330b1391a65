"""Plain reward functions in TRL's form, unchanged: ``f(prompts, completions, **columns) -> list[float | None]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.base import Missing, Score
from rewards.core.asynchrony import finished
from rewards.plain.base import PlainReward
from rewards.plain.columns import COLUMNS, row_of
from rewards.plain.signature import choose_arguments, names_any, takes_anything, wanted_columns
from rl.types import ChainView

TRAINER_ARGUMENTS = ("trainer_state", "log_extra", "log_metric", "environments")
"""What TRL's trainer says of itself. A function may name them; see ``FunctionReward``."""
_OPTIONS = ("low", "high", "missing", "needs", "conversational")


class FunctionReward(PlainReward):
    """A function with TRL's signature, ``def`` or ``async def``.

    It is called once a batch with the columns of ``rewards.plain.columns`` as keyword arguments, each a list with one
    entry a chain: all of them where it takes ``**kwargs``, else those it names. It answers with one number a chain.

    ``None`` in the answer means, as in TRL, that the function does not apply to the chain. TRL leaves it out of the
    sum over rewards; here it becomes ``missing``, by default the 0 that does the same, and is counted as missing.

    A function that names what TRL's trainer says of itself gets ``trainer_state=None``, ``environments=None``, and
    ``log_extra`` and ``log_metric`` that do nothing. Where token ids are not known ``completion_ids`` has a None a
    chain, so that a function that counts them fails with a reason instead of counting wrong.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        low: float = -math.inf,
        high: float = math.inf,
        missing: float = 0.0,
        needs: Sequence[str] = ("text",),
        conversational: bool | None = None,
        **constants: Any,
    ) -> None:
        """Wrap.

        Args:
            function: Takes keyword arguments.
            low: Lowest score it may return; unbounded by default, as functions declare nothing.
            high: Highest score it may return.
            missing: Score of a chain it does not apply to.
            needs: Inputs without which it is not asked, by ``Need``'s values.
            conversational: Its completions are lists of messages, ``[{"role": "assistant", "content": text}]``,
                and its prompts likewise. None is as in TRL: where the data file asks in messages.
            constants: Passed on to every call; parameters of the function by name.

        Raises:
            ConfigError: If the function cannot be called so, or there is no such need.
        """
        columns = wanted_columns(function, {*COLUMNS, *TRAINER_ARGUMENTS, *constants})
        self._arguments = choose_arguments(
            function,
            constants,
            told=tuple(COLUMNS),
            on_request=TRAINER_ARGUMENTS,
            columns=columns,
            options=_OPTIONS,
        )
        super().__init__(
            function, constants, columns=columns, low=low, high=high, missing=missing, needs=needs
        )
        self.conversational = conversational

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Call the function once."""
        rows = [row_of(chain) for chain in chains]
        told = {name: self._column(name, rows) for name in self._told(rows)}
        answers = finished(self.function(**told, **self.constants))
        return [Missing("the function returned None") if answer is None else answer for answer in answers]

    def _told(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Name the arguments of a call: the fixed ones, and what else of the prompts the function takes."""
        names = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
        if not takes_anything(self.function):
            names = {name: None for name in names if names_any(self.function, (name,))}
        return [*self._arguments, *(n for n in names if n not in {*self._arguments, *self.constants})]

    def _column(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        if name in TRAINER_ARGUMENTS:
            return {"log_extra": _nothing, "log_metric": _nothing}.get(name)
        role = {"prompts": "user", "completions": "assistant"}.get(name)
        return [row.get(name) if role is None else self._spoken(row, name, role) for row in rows]

    def _spoken(self, row: Mapping[str, Any], name: str, role: str) -> Any:
        """Return what was asked or answered, as messages where the function is to have them."""
        said, is_chat = row[name], self.conversational
        if is_chat is None:
            is_chat = isinstance(row["prompts"], list)
        return [{"role": role, "content": said}] if is_chat and not isinstance(said, list) else said


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stand in for TRL's log functions."""


def is_trl_function(function: Callable[..., Any]) -> bool:
    """Whether a function can be told what TRL tells: it names a column, or takes anything."""
    return takes_anything(function) or names_any(function, tuple(COLUMNS))
