"""Reward functions in verl's form, ``compute_score(data_source, solution_str, ground_truth, extra_info)``."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from configs.suggest import suggest
from rewards.base import Failure, Missing, Score, describe_exception
from rewards.core.asynchrony import contained, finished
from rewards.plain.base import PlainReward
from rewards.plain.columns import COLUMNS, row_of
from rewards.plain.signature import choose_arguments, names_any
from rl.errors import ConfigError
from rl.types import ChainView

logger = logging.getLogger(__name__)

ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
"""What verl calls a score function with."""
GROUND_TRUTH = "ground_truth"
"""Reference value that is the answer, as verl's data files have it."""
_OPTIONS = ("low", "high", "missing", "needs", "ground_truth", "data_source")


class ComputeScoreReward(PlainReward):
    """A function with verl's signature, ``def`` or ``async def``, called once a chain.

    ``solution_str`` is everything the chain wrote. ``ground_truth`` is the prompt's reference value of that name, or of
    the column that the option of that name chooses; where the prompt has none, a mapping of all that is known of the
    answer. ``data_source`` is the option of that name, or else the prompt's reference value. ``extra_info`` holds what
    the prompt's has, and every column of ``rewards.plain.columns`` for the chain.

    It answers with a number, or with a mapping whose ``score`` is one. None, there too, means that it does not
    apply. An exception costs the chain it was raised for, and no other; coroutines of a batch run together.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        low: float = -math.inf,
        high: float = math.inf,
        missing: float = 0.0,
        needs: Sequence[str] = ("text",),
        data_source: str = "",
        ground_truth: str = "",
        **constants: Any,
    ) -> None:
        """Wrap.

        Args:
            function: Takes keyword arguments.
            low: Lowest score it may return; unbounded by default, as functions declare nothing.
            high: Highest score it may return.
            missing: Score of a chain it does not apply to.
            needs: Inputs without which it is not asked, by ``Need``'s values.
            data_source: What it is told the chain comes from; empty is what the data file says, or ``vlcot``.
            ground_truth: Column given as ground truth, e.g. ``tags``; empty gives all that is known.
            constants: Passed on to every call (verl's ``reward_kwargs``); parameters of the function by name.

        Raises:
            ConfigError: If the function cannot be called so, or there is no such need or column.
        """
        super().__init__(function, constants, columns=(), low=low, high=high, missing=missing, needs=needs)
        self._arguments = choose_arguments(function, constants, told=ARGUMENTS, options=_OPTIONS)
        self.data_source = data_source
        self.ground_truth = ground_truth

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Call the function for each chain."""
        answers = [self._call(chain) for chain in chains]
        waiting = [index for index, answer in enumerate(answers) if inspect.isawaitable(answer)]
        if waiting:
            late = finished(_gather([answers[index] for index in waiting]))
            for index, answer in zip(waiting, late, strict=True):
                answers[index] = answer
        return [self._scored(chain, answer) for chain, answer in zip(chains, answers, strict=True)]

    def check_prompt(self, names: Collection[str]) -> None:
        """Refuse needs, and a ground truth, that the run's prompts do not have."""
        super().check_prompt(names)
        if (chosen := self.ground_truth) and chosen not in (known := {*COLUMNS, *names}):
            raise ConfigError(f"ground_truth: no column {chosen!r}{suggest(chosen, known)}")

    def _call(self, chain: ChainView) -> Any:
        """Return the function's answer, its exception, or the coroutine it is."""
        row, prompt = row_of(chain), chain.prompt
        hidden = {name: picture for name, picture in prompt.pictures.items() if name not in prompt.shown}
        name = self.ground_truth or GROUND_TRUTH
        truth = row.get(name) if name in row or self.ground_truth else {**prompt.reference, **hidden}
        source = self.data_source or prompt.reference.get("data_source") or "vlcot"
        given = prompt.reference.get("extra_info")
        extra = {**row, **given} if isinstance(given, Mapping) else row
        told = dict(zip(ARGUMENTS, (source, chain.text, truth, extra), strict=True))
        try:
            return self.function(**{name: told[name] for name in self._arguments}, **self.constants)
        except (Exception, SystemExit) as error:
            logger.debug("the function raised", exc_info=error)
            return error

    def _scored(self, chain: ChainView, answer: Any) -> Score:
        if isinstance(answer, BaseException):
            logger.error("scoring chain %s failed", chain.chain_id, exc_info=answer)
            return Failure(describe_exception(answer))
        if isinstance(answer, Mapping):
            if "score" not in answer:
                return Failure(f"the function returned {sorted(map(str, answer))}, want a 'score' among them")
            answer = answer["score"]
        return Missing("the function returned None") if answer is None else answer


def is_compute_score(function: Callable[..., Any]) -> bool:
    """Whether a function has verl's signature: it names the solution."""
    return names_any(function, ("solution_str",))


async def _gather(answers: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*map(contained, answers), return_exceptions=True))
