"""The clipped surrogate and the k3 KL, one action at a time in plain Python."""

import math
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def clipped_loss(
    logprobs: Rows, behaviour: Rows, advantages: Rows, mask: Sequence[Sequence[bool]], low: float, high: float
) -> float:
    total = 0.0
    for row in zip(logprobs, behaviour, advantages, mask, strict=True):
        for new, old, advantage, trained in zip(*row, strict=True):
            if trained:
                ratio = math.exp(new - old)
                held = min(max(ratio, 1 - low), 1 + high)
                total -= min(ratio * advantage, held * advantage)
    return total


def k3(logprobs: Rows, reference: Rows, mask: Sequence[Sequence[bool]]) -> float:
    total = 0.0
    for row in zip(logprobs, reference, mask, strict=True):
        for own, other, trained in zip(*row, strict=True):
            if trained:
                total += math.exp(other - own) - (other - own) - 1
    return total
