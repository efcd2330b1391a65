"""Classifier-free guidance written down once more, id by id, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def guided_logprobs(
    conditional: Sequence[float],
    unconditional: Sequence[float],
    *,
    scale: float,
    temperature: float,
    forbidden: Collection[int] = (),
) -> list[float]:
    """Log-prob of every id; -inf for the forbidden."""
    scores = {
        i: (u + scale * (c - u)) / temperature
        for i, (c, u) in enumerate(zip(conditional, unconditional, strict=True))
        if i not in forbidden
    }
    highest = max(scores.values())
    total = highest + math.log(math.fsum(math.exp(s - highest) for s in scores.values()))
    return [scores[i] - total if i in scores else -math.inf for i in range(len(conditional))]
