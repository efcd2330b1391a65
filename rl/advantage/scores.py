"""Scores of several chains, put together and taken apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from rl.types import Floats, Scores


def join(name: str, parts: Sequence[Scores]) -> Scores:
    """Put scores of one reward one after another."""
    if not parts:
        parts = [failed(name, 0, "")]
    return Scores(
        name=name,
        values=np.concatenate([part.values for part in parts]),
        valid=np.concatenate([part.valid for part in parts]),
        missing=np.concatenate([part.missing for part in parts]),
        reasons=tuple(reason for part in parts for reason in part.reasons),
    )


def split(scores: Scores, sizes: Sequence[int]) -> list[Scores]:
    """Cut scores into runs of ``sizes`` chains."""
    stops = list(itertools.accumulate(sizes))
    return [take(scores, range(stop - size, stop)) for stop, size in zip(stops, sizes, strict=True)]


def take(scores: Scores, rows: Sequence[int]) -> Scores:
    """Return the scores of some chains, in the order of ``rows``."""
    index = np.asarray(rows, dtype=np.intp)
    return Scores(
        name=scores.name,
        values=scores.values[index],
        valid=scores.valid[index],
        missing=scores.missing[index],
        reasons=tuple(scores.reasons[row] for row in rows),
    )


def known(name: str, values: Floats) -> Scores:
    """Return the scores of chains that all have one."""
    num = len(values)
    return Scores(
        name=name,
        values=values,
        valid=np.ones(num, dtype=np.bool_),
        missing=np.zeros(num, dtype=np.bool_),
        reasons=("",) * num,
    )


def failed(name: str, num: int, reason: str) -> Scores:
    """Return the scores of chains that nobody could score."""
    return Scores(
        name=name,
        values=np.zeros(num, dtype=np.float32),
        valid=np.zeros(num, dtype=np.bool_),
        missing=np.zeros(num, dtype=np.bool_),
        reasons=(reason,) * num,
    )
