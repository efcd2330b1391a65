"""Every part of the loss, one action at a time in plain Python; values and hand-derived gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from configs.methods import CISPO, GMPO, GSPO, PPO, DualClip, NoCorrection, OnPolicy, SequenceMask, TokenMask

Row = Sequence[float]
Rows = Sequence[Row]
Mask = Sequence[Sequence[bool]]


def hold(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def mean(values: Row) -> float:
    return sum(values) / len(values)


def numeric_gradient(function: Callable[[list[float]], float], at: Row, step: float = 1e-6) -> list[float]:
    """Central differences."""
    slopes = []
    for index in range(len(at)):
        up, down = list(at), list(at)
        up[index] += step
        down[index] -= step
        slopes.append((function(up) - function(down)) / (2 * step))
    return slopes


# ------------------------------------------------------------------ surrogates


def surrogate(
    method: object, new: Rows, old: Rows, advantages: Rows, mask: Mask
) -> tuple[list[list[float]], list[list[float]]]:
    """Value of every action, and the gradient of all values' sum by its log-prob; 0 where not trained."""
    values, gradients = [], []
    for row in zip(new, old, advantages, mask, strict=True):
        trained = [index for index, is_trained in enumerate(row[3]) if is_trained]
        found = _surrogate_row(method, *([part[index] for index in trained] for part in row[:3]))
        value, gradient = [0.0] * len(row[0]), [0.0] * len(row[0])
        for index, (one, slope) in zip(trained, found, strict=True):
            value[index], gradient[index] = one, slope
        values.append(value)
        gradients.append(gradient)
    return values, gradients


def _surrogate_row(method: object, new: Row, old: Row, advantages: Row) -> list[tuple[float, float]]:
    if not new:
        return []
    gaps = [a - b for a, b in zip(new, old, strict=True)]
    if isinstance(method, PPO):
        return [
            _ppo(math.exp(g), a, method.clip_low, method.clip_high)
            for g, a in zip(gaps, advantages, strict=True)
        ]
    if isinstance(method, DualClip):
        return [_dual_clip(math.exp(gap), a, method) for gap, a in zip(gaps, advantages, strict=True)]
    if isinstance(method, GSPO):
        ratio = math.prod(math.exp(gap) for gap in gaps) ** (1 / len(gaps))
        return [_ppo(ratio, a, method.clip_low, method.clip_high) for a in advantages]
    if isinstance(method, CISPO):
        weights = [hold(math.exp(gap), 1 - method.clip_low, 1 + method.clip_high) for gap in gaps]
        return [(w * a * n, w * a) for w, a, n in zip(weights, advantages, new, strict=True)]
    if isinstance(method, GMPO):
        held = [_gmpo_ratio(gap, a, method) for gap, a in zip(gaps, advantages, strict=True)]
        ratio = math.prod(held) ** (1 / len(held))
        free = [math.isclose(h, math.exp(gap), rel_tol=1e-12) for h, gap in zip(held, gaps, strict=True)]
        return [(ratio * a, ratio * a if f else 0.0) for a, f in zip(advantages, free, strict=True)]
    assert isinstance(method, OnPolicy)
    return [(a, a) for a in advantages]


def _ppo(ratio: float, advantage: float, low: float, high: float) -> tuple[float, float]:
    held = hold(ratio, 1 - low, 1 + high)
    if held * advantage < ratio * advantage:
        return held * advantage, 0.0
    return ratio * advantage, ratio * advantage


def _dual_clip(ratio: float, advantage: float, method: DualClip) -> tuple[float, float]:
    value, gradient = _ppo(ratio, advantage, method.clip_low, method.clip_high)
    if advantage < 0 and value < method.bound * advantage:
        return method.bound * advantage, 0.0
    return value, gradient


def _gmpo_ratio(gap: float, advantage: float, method: GMPO) -> float:
    """The paper's ``min(r^s, clip(r, e^-low, e^high)^s)^s`` with s the advantage's sign."""
    sign = (advantage > 0) - (advantage < 0)
    ratio = math.exp(gap)
    held = hold(ratio, math.exp(-method.clip_low), math.exp(method.clip_high))
    return min(ratio**sign, held**sign) ** sign


def gspo_sequence(method: GSPO, new: Row, old: Row, advantage: float) -> float:
    """The paper's objective of one sequence (Zheng et al. 2025, eq. 5)."""
    ratio = math.exp(sum(new) - sum(old)) ** (1 / len(new))
    return min(ratio * advantage, hold(ratio, 1 - method.clip_low, 1 + method.clip_high) * advantage)


def gmpo_sequence(method: GMPO, new: Row, old: Row, advantage: float) -> float:
    """The paper's objective of one sequence (Zhao et al. 2025)."""
    ratios = [_gmpo_ratio(a - b, advantage, method) for a, b in zip(new, old, strict=True)]
    return math.prod(ratios) ** (1 / len(ratios)) * advantage


# ------------------------------------------------------------------ normal steps


def normal_logprob(x: Row, at: Row, std: float) -> float:
    """Mean over elements."""
    return mean(
        [
            -((a - b) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
            for a, b in zip(x, at, strict=True)
        ]
    )


def guard_ratio(x: Row, new_mean: Row, old_mean: Row, std: float) -> float:
    """Not the paper's formula but what it comes to: exp of the mean of noise times the move of the mean."""
    noise = [(a - b) / std for a, b in zip(x, old_mean, strict=True)]
    return math.exp(mean([e * (a - b) for e, a, b in zip(noise, new_mean, old_mean, strict=True)]))


def guard_value(
    x: Row, new_mean: Row, old_mean: Row, std: float, advantage: float, bounds: tuple[float, float]
) -> float:
    ratio = guard_ratio(x, new_mean, old_mean, std)
    return min(ratio * advantage, hold(ratio, 1 - bounds[0], 1 + bounds[1]) * advantage)


# ------------------------------------------------------------------ KL, correction, aggregation


def kl(estimator: str, own: float, other: float) -> float:
    gap = own - other
    return {"k1": gap, "k2": gap * gap / 2, "k3": math.exp(-gap) - 1 + gap}[estimator]


def correction_factor(method: object, gaps: Row, index: int) -> float:
    """Factor of action ``index`` of a sequence whose log mismatches are ``gaps``."""
    weight = math.exp(gaps[index])
    if isinstance(method, NoCorrection):
        return 1.0
    if isinstance(method, TokenMask):
        return weight if method.low <= weight <= method.high else 0.0
    if isinstance(method, SequenceMask):
        geometric = math.exp(mean(gaps))
        return min(weight, 2.0) if method.low <= geometric <= method.high else 0.0
    return min(weight, getattr(method, "cap", math.inf))


def block_mean(terms: Rows, mask: Mask, block_of: Sequence[Sequence[int]]) -> float:
    """Mean over sequences of the mean over their blocks of the mean over their actions."""
    sequences = []
    for row, trained, blocks in zip(terms, mask, block_of, strict=True):
        by_block: dict[int, list[float]] = {}
        for term, is_trained, block in zip(row, trained, blocks, strict=True):
            if is_trained:
                by_block.setdefault(block, []).append(term)
        if by_block:
            sequences.append(mean([mean(terms_of_block) for terms_of_block in by_block.values()]))
    return mean(sequences) if sequences else 0.0


def aggregated(
    aggregation: str, terms: Rows, mask: Mask, max_actions: int, block_of: Sequence[Sequence[int]] = ()
) -> float:
    """Mean of an optimizer step's terms."""
    if aggregation == "block_mean":
        return block_mean(terms, mask, block_of)
    rows = [[t for t, m in zip(*row, strict=True) if m] for row in zip(terms, mask, strict=True)]
    rows = [row for row in rows if row]
    if not rows:
        return 0.0
    if aggregation == "action_mean":
        return mean([term for row in rows for term in row])
    if aggregation == "sequence_mean":
        return mean([mean(row) for row in rows])
    return sum(term for row in rows for term in row) / (len(rows) * max_actions)
