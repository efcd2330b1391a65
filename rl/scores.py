"""Scores of several chains, put together and taken apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from rl.types import Scores


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
    return [
        Scores(
            name=scores.name,
            values=scores.values[stop - size : stop],
            valid=scores.valid[stop - size : stop],
            missing=scores.missing[stop - size : stop],
            reasons=scores.reasons[stop - size : stop],
        )
        for stop, size in zip(stops, sizes, strict=True)
    ]


def failed(name: str, num: int, reason: str) -> Scores:
    """Return the scores of chains that nobody could score."""
    return Scores(
        name=name,
        values=np.zeros(num, dtype=np.float32),
        valid=np.zeros(num, dtype=np.bool_),
        missing=np.zeros(num, dtype=np.bool_),
        reasons=(reason,) * num,
    )
