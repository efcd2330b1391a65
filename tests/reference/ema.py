"""The moving average written down once more, slowly and in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def moving_average(history, decay: float):
    """Average of ``history[0]``, the start, and what each step made of it."""
    average = np.asarray(history[0], dtype=np.float64)
    for n, weights in enumerate(history[1:]):
        d = (1 + n) / (10 + n)
        if d > decay:
            d = decay
        average = d * average + (1 - d) * np.asarray(weights, dtype=np.float64)
    return average


def moving_averages(history: Sequence[dict[str, np.ndarray]], decay: float) -> dict[str, np.ndarray]:
    """The same for named arrays."""
    return {name: moving_average([weights[name] for weights in history], decay) for name in history[0]}
