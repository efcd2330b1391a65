"""Means, their intervals, and the summary of a held-out evaluation.

Pure: numbers in, numbers out. The question the project asks of itself is "is the trained policy better
than the cold start *on the same photographs*", so differences are paired before they are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from rl.types import JsonDict

BICUBIC, REAL_ESRGAN, START, NOW = "bicubic", "real-esrgan", "start", "now"
"""Rows of an evaluation: enlarged degraded photographs, the policies before training, and those of now."""
ROUND_TRIP = "round trip"
"""Row of an evaluation of a unified policy: the truths through its picture tokenizer, which is the ceiling."""
GAIN = f"{NOW}-{START}"
FORMAT = 2
"""Of ``eval.json``. Files without a number, of before, call the start ``coldstart`` and now ``grpo``."""
PAIRS = ((NOW, START), (NOW, BICUBIC))
"""Rows of an evaluation that are compared, after and before."""
EvalValues = Mapping[str, Mapping[str, Sequence[float | None]]]
"""``row -> metric -> one value a prompt`` (None where there is none), e.g. ``now -> psnr -> [...]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its two-sided Student-t confidence interval."""

    mean: float
    low: float
    """Lower end; ``-inf`` where one value says nothing of the spread."""
    high: float
    num: int
    """Values (or pairs) behind it."""

    def to_json(self) -> JsonDict:
        """Return plain numbers; an end that is not finite becomes None."""
        ends = [end if np.isfinite(end) else None for end in (self.low, self.high)]
        return {"mean": self.mean, "low": ends[0], "high": ends[1], "num": self.num}


def mean_interval(values: Sequence[float] | NDArray[np.floating], confidence: float = 0.95) -> Interval:
    """Return the mean of independent values and its Student-t interval.

    Args:
        values: Finite values, at least one.
        confidence: Chance, in (0, 1), that such an interval covers the true mean.

    Returns:
        ``mean ± t * s / sqrt(n)`` with the unbiased s and n - 1 degrees of freedom.

    Raises:
        ValueError: If there is no value, one is not finite, or ``confidence`` is outside (0, 1).

    Source:
        Student 1908, "The probable error of a mean".
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.all(np.isfinite(array)):
        raise ValueError(f"mean_interval: want at least one finite value, got {array!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"mean_interval: confidence must be in (0, 1), got {confidence}")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean=mean, low=-np.inf, high=np.inf, num=1)
    quantile = float(stdtrit(array.size - 1, 0.5 + confidence / 2))
    half = quantile * float(array.std(ddof=1)) / float(np.sqrt(array.size))
    return Interval(mean=mean, low=mean - half, high=mean + half, num=int(array.size))


def paired_interval(after: Sequence[float | None], before: Sequence[float | None]) -> Interval | None:
    """Return the mean of ``after - before`` over the prompts where both exist, with its 95 % interval.

    Args:
        after: One value a prompt; None or a non-finite number means there is none.
        before: The same prompts in the same order.

    Returns:
        None where no prompt has both.

    Raises:
        ValueError: If the two differ in length.
    """
    if len(after) != len(before):
        raise ValueError(f"paired_interval: {len(after)} values against {len(before)}")
    difference = _numbers(after) - _numbers(before)
    kept = difference[np.isfinite(difference)]
    return mean_interval(kept) if kept.size else None


def summarise_eval(prompt_ids: Sequence[str], values: EvalValues) -> JsonDict:
    """Build the content of ``eval.json``.

    Args:
        prompt_ids: The held-out prompts, n of them.
        values: ``row -> metric -> n values``; rows may differ in their metrics.

    Returns:
        ``rows`` (mean and ``interval`` = [low, high]), ``paired`` (``"after-before"`` -> metric -> mean, low,
        high), ``num_prompts``, ``prompts`` (``prompt_id -> row -> metric -> value``) and ``format``.

    Raises:
        ValueError: If a metric does not have n values.
    """
    for row, metrics in values.items():
        for metric, column in metrics.items():
            if len(column) != len(prompt_ids):
                raise ValueError(f"{row}/{metric}: {len(column)} values for {len(prompt_ids)} prompts")
    rows = {
        row: {metric: cell for metric, column in metrics.items() if (cell := _cell(column)) is not None}
        for row, metrics in values.items()
    }
    paired = {
        f"{after}-{before}": _differences(values[after], values[before])
        for after, before in PAIRS
        if after in values and before in values
    }
    prompts = {
        prompt_id: {
            row: {metric: _number(column[index]) for metric, column in metrics.items()}
            for row, metrics in values.items()
        }
        for index, prompt_id in enumerate(prompt_ids)
    }
    return {
        "rows": rows,
        "paired": paired,
        "num_prompts": len(prompt_ids),
        "prompts": prompts,
        "format": FORMAT,
    }


def _cell(column: Sequence[float | None]) -> JsonDict | None:
    numbers = _numbers(column)
    kept = numbers[np.isfinite(numbers)]
    if not kept.size:
        return None
    summary = mean_interval(kept).to_json()
    return {"mean": summary["mean"], "interval": [summary["low"], summary["high"]], "num": summary["num"]}


def _differences(
    after: Mapping[str, Sequence[float | None]], before: Mapping[str, Sequence[float | None]]
) -> JsonDict:
    shared = [metric for metric in after if metric in before]
    intervals = {metric: paired_interval(after[metric], before[metric]) for metric in shared}
    return {metric: interval.to_json() for metric, interval in intervals.items() if interval is not None}


def _numbers(column: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in column], dtype=np.float64)


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
