"""Interface of a reward, and the checks that turn its answers into scores to be trusted.

Light: no torch, no pyiqa, no Ray. A reward's author writes ``score``; ``evaluate`` takes care of absent
inputs, of the author's exceptions and of answers that break the author's own declaration.
"""

from __future__ import annotations

import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from configs.schema import BlockConfig
from configs.suggest import suggest
from rewards.core.one_line import one_line
from rewards.core.tracebacks import RAISED
from rl.errors import ConfigError
from rl.types import ChainView, Scores

_TOLERANCE = 1e-6
"""Share of the declared range by which a score may leave it: rounding, not a mistake."""
_NUMBERS = (int, float, np.integer, np.floating, np.bool_)
"""What a score may be; besides, a tensor or an array with one of them in it, as in TRL and verl."""
_LARGEST = float(np.finfo(np.float32).max)
"""Scores travel as float32."""
_LONGEST_REASON = 1200
"""Characters: a described exception and where it was raised."""


class Need(StrEnum):
    """An input a reward cannot do without, of the chain's own; a chain that lacks it gets ``missing``.

    Every other need is the name of one of the prompt's pictures or reference values, e.g. ``truth``. There is no
    such thing as "the whole group": chains are scored one by one, as soon as each exists, and compared within
    their group afterwards.
    """

    TEXT = "text"
    FINAL_PICTURE = "final_picture"


@dataclass(frozen=True, slots=True)
class Failure:
    """The scorer could not judge this chain, and that is the scorer's fault. It becomes ``valid=False``."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The chain has nothing to judge. It becomes the reward's ``missing`` value, valid and counted."""

    reason: str


Score = float | Failure | Missing


class Reward(ABC):
    """Judges finished chains. Subclass it, and check the subclass with ``rewards.contract.check_reward``.

    The constructor takes the config's ``options`` and must be cheap, free of heavy imports and leave the
    object picklable: the driver makes one to read the declarations below. Weights are loaded in ``setup``.
    """

    needs: frozenset[str] = frozenset({Need.TEXT})
    """Inputs without which ``score`` is not asked: of ``Need``, or names of what the prompt carries."""
    unit: str = "share"
    """What one is one of."""
    low: float = 0.0
    """Lowest score; a lower one is an error of the scorer."""
    high: float = 1.0
    """Highest score; a higher one is an error of the scorer."""
    larger_is_better: bool = True
    """Direction. Scores of a reward where smaller is better leave ``evaluate`` negated."""
    deterministic: bool = True
    """Equal chains get equal scores, however often asked. False for a judge that samples its answer."""

    @property
    def missing(self) -> float:
        """Score of a chain that lacks an input: the worst end of the range."""
        return self.low if self.larger_is_better else self.high

    def check(self) -> None:  # noqa: B027 - optional
        """Refuse options that ``setup`` would refuse, without loading anything: before a run starts.

        Raises:
            ConfigError: With the name of the option and the remedy.
        """

    def check_chain(self, chain: Mapping[str, BlockConfig]) -> None:  # noqa: B027 - optional
        """Refuse a chain that it could not judge, its pictures too small for instance: before a run starts.

        Unlike ``judged_blocks``, which only reads declarations, it may load what it needs to find out.

        Args:
            chain: The run's blocks in order.

        Raises:
            ConfigError: With the remedy.
        """

    def check_prompt(self, names: Collection[str]) -> None:
        """Refuse inputs that the run's prompts do not have: before a run starts.

        Args:
            names: Of a prompt's pictures and reference values.

        Raises:
            ConfigError: Names the input, and the nearest there is.
        """
        for need in sorted(self.needs - set(Need)):
            if need not in names:
                raise ConfigError(f"needs {need}, which the run's prompts do not have{suggest(need, names)}")

    def setup(self) -> None:  # noqa: B027 - optional: rewards of text need none
        """Import and load what is heavy. Called once, in the worker, before the first ``score``."""

    @abstractmethod
    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Judge chains.

        Args:
            chains: At least one; each has every input named in ``needs``. They may be of different groups.

        Returns:
            One score a chain, in order: a number from ``low`` to ``high``, or why there is none. It must not
            depend on the other chains.
        """

    def judged_blocks(self, chain: Mapping[str, BlockConfig]) -> tuple[str, ...]:
        """Name the blocks that earn this score.

        Here: all blocks where the final picture is judged (each text before it is a condition of it), and
        all text blocks otherwise.

        Args:
            chain: The run's blocks in order.
        """
        if Need.FINAL_PICTURE in self.needs:
            return tuple(chain)
        return tuple(name for name, block in chain.items() if block.kind == "text")


def evaluate(reward: Reward, name: str, chains: Sequence[ChainView]) -> Scores:
    """Score chains and check the answer against what the reward declares.

    Absent is not failed: a chain without a needed input gets ``reward.missing``, valid, with the reason. An
    exception, a wrong number of scores, a score that is not a finite number of the declared range is
    ``valid=False`` with a reason, never a 0.

    Args:
        reward: Set up.
        name: Its key in the config.
        chains: In any order and of any groups; n of them.

    Returns:
        Scores over the n chains in order, in the reward's unit, larger is better.
    """
    results = checked_scores(reward, name, chains)
    if not math.isfinite(reward.missing):
        no_value = f", and the reward's missing value is {reward.missing}"
        results = [Failure(r.reason + no_value) if isinstance(r, Missing) else r for r in results]
    sign = 1.0 if reward.larger_is_better else -1.0
    values = [
        reward.missing if isinstance(r, Missing) else 0.0 if isinstance(r, Failure) else r for r in results
    ]
    return Scores(
        name=name,
        values=np.asarray([sign * value for value in values], dtype=np.float32),
        valid=np.asarray([not isinstance(r, Failure) for r in results], dtype=np.bool_),
        missing=np.asarray([isinstance(r, Missing) for r in results], dtype=np.bool_),
        reasons=tuple(
            one_line(r.reason, _LONGEST_REASON) if isinstance(r, (Failure, Missing)) else "" for r in results
        ),
    )


def checked_scores(reward: Reward, name: str, chains: Sequence[ChainView]) -> list[Score]:
    """Ask for scores in the reward's own unit and direction; see ``evaluate``, which adds the rest.

    Returns:
        One checked score a chain, in order; chains that lack a needed input are ``Missing``, and not asked about.
    """
    lacks = [_lacking(reward, chain) for chain in chains]
    answers = iter(_ask(reward, name, [c for c, lack in zip(chains, lacks, strict=True) if not lack]))
    return [Missing(lack) if lack else next(answers) for lack in lacks]


def describe_exception(error: BaseException) -> str:
    """Return type, message and the line that raised, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(str(error))}{where}"


def _lacking(reward: Reward, chain: ChainView) -> str:
    """Name the inputs the chain lacks, or return ''."""
    names = sorted(need for need in reward.needs if not _has(chain, need))
    return f"no {', '.join(names)}" if names else ""


def _has(chain: ChainView, need: str) -> bool:
    """Whether an input is there; an empty text, list or mapping of the prompt's is not."""
    if need == Need.FINAL_PICTURE:
        return chain.final_picture is not None
    if need == Need.TEXT or need in chain.prompt.pictures:
        return True
    value = chain.prompt.reference.get(need)
    return value is not None and not (isinstance(value, Sized) and len(value) == 0)


def _ask(reward: Reward, name: str, chains: Sequence[ChainView]) -> list[Score]:
    if not chains:
        return []
    try:
        answers = list(reward.score(chains))
    # The border to user code: the traceback is kept, the reason travels, and sys.exit() ends nothing but these scores.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        reason = describe_exception(error)
        RAISED.note(name, reason, chains[0].chain_id, error)
        return [Failure(reason)] * len(chains)
    if len(answers) != len(chains):
        return [Failure(f"{len(answers)} scores for {len(chains)} chains")] * len(chains)
    return [_checked(reward, answer) for answer in answers]


def _checked(reward: Reward, answer: Any) -> Score:
    """Turn a score that breaks the declaration into a failure."""
    if isinstance(answer, (Failure, Missing)):
        return answer
    kind = type(answer).__name__
    if not isinstance(answer, _NUMBERS) and callable(item := getattr(answer, "item", None)):
        try:
            answer = item()
        except (ValueError, RuntimeError) as error:
            return Failure(f"score is a {kind} of more or less than one element: {error}")
    if not isinstance(answer, _NUMBERS):
        return Failure(f"score is a {kind}, not a number")
    if not -_LARGEST <= answer <= _LARGEST:
        return Failure(f"score is {answer:g}, not a finite number")
    value = float(answer)
    slack = _TOLERANCE * max(1.0, reward.high - reward.low)
    if not reward.low - slack <= value <= reward.high + slack:
        return Failure(f"score {value:g} is outside the declared range {reward.low:g} to {reward.high:g}")
    return value
