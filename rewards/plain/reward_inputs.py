"""Reward functions in EasyR1's form, ``compute_score(reward_inputs)``, or one at a time ``(reward_input)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from configs.suggest import suggest
from rewards.base import Failure, Missing, Score
from rewards.core.asynchrony import finished
from rewards.plain.base import PlainReward
from rewards.plain.columns import COLUMNS, row_of
from rewards.plain.signature import choose_arguments, names_any
from rl.errors import ConfigError
from rl.types import ChainView, JsonDict

BATCH, SINGLE = "reward_inputs", "reward_input"
"""By its one argument a function takes a list of chains, or one chain."""
OVERALL = "overall"
"""What counts of a function's answer."""
GROUND_TRUTH = "ground_truth"
_OPTIONS = ("low", "high", "missing", "needs", GROUND_TRUTH)


class RewardInputsReward(PlainReward):
    """A function with EasyR1's signature, ``def`` or ``async def``.

    A chain is a mapping of ``response`` (everything it wrote), ``response_length`` (its tokens) and ``ground_truth``.
    The answer for each is a mapping whose ``overall`` is the score, or a number; None means that it does not apply.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        low: float = -math.inf,
        high: float = math.inf,
        missing: float = 0.0,
        needs: Sequence[str] = ("text",),
        ground_truth: str = GROUND_TRUTH,
        **constants: Any,
    ) -> None:
        """Wrap.

        Args:
            function: Takes keyword arguments.
            low: Lowest score it may return; unbounded by default, as functions declare nothing.
            high: Highest score it may return.
            missing: Score of a chain it does not apply to.
            needs: Inputs without which it is not asked, by ``Need``'s values.
            ground_truth: Column given as ground truth.
            constants: Passed on to every call; parameters of the function by name.

        Raises:
            ConfigError: If the function cannot be called so, or there is no such need.
        """
        super().__init__(function, constants, columns=(), low=low, high=high, missing=missing, needs=needs)
        self._is_batch = names_any(function, (BATCH,))
        self._argument = BATCH if self._is_batch else SINGLE
        choose_arguments(function, constants, told=(self._argument,), options=_OPTIONS)
        self.ground_truth = ground_truth

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Call the function once, or once a chain."""
        inputs = [self._input(chain) for chain in chains]
        calls = [inputs] if self._is_batch else inputs
        answers = [finished(self.function(**{self._argument: told}, **self.constants)) for told in calls]
        return [_scored(answer) for answer in (answers[0] if self._is_batch else answers)]

    def check_prompt(self, names: Collection[str]) -> None:
        """Refuse needs, and a ground truth, that the run's prompts do not have."""
        super().check_prompt(names)
        if self.ground_truth not in (known := {*COLUMNS, *names}):
            near = suggest(self.ground_truth, known)
            raise ConfigError(f"ground_truth: no column {self.ground_truth!r}{near}")

    def _input(self, chain: ChainView) -> JsonDict:
        ids = chain.completion_ids
        return {
            "response": chain.text,
            "response_length": None if ids is None else len(ids),
            GROUND_TRUTH: row_of(chain).get(self.ground_truth),
        }


def is_reward_inputs(function: Callable[..., Any]) -> bool:
    """Whether a function has EasyR1's signature."""
    return names_any(function, (BATCH, SINGLE))


def _scored(answer: Any) -> Score:
    if isinstance(answer, Mapping):
        if OVERALL not in answer:
            return Failure(f"the function returned {sorted(map(str, answer))}, want {OVERALL!r} among them")
        answer = answer[OVERALL]
    return Missing("the function returned None") if answer is None else answer
