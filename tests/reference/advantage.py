"""Group-relative advantages with the standard library's statistics, one number at a time."""

import statistics
from collections.abc import Sequence


def normalise(values: Sequence[float], eps: float) -> list[float]:
    if len(values) < 2:
        return [0.0] * len(values)
    mean, std = statistics.fmean(values), statistics.stdev(values)
    return [(value - mean) / (std + eps) for value in values]
