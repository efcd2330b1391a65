"""Advantages as the papers write them, one number at a time, with the standard library's statistics.

``groups`` is a list of groups, each a list of one total reward a chain; several rewards are a list of such lists.
"""

import statistics
from collections.abc import Sequence

Groups = Sequence[Sequence[float]]


def std(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def normalise(values: Sequence[float], eps: float) -> list[float]:
    if len(values) < 2:
        return [0.0] * len(values)
    mean = statistics.fmean(values)
    return [(value - mean) / (std(values) + eps) for value in values]


def flat(groups: Groups) -> list[float]:
    return [value for group in groups for value in group]


def like(groups: Groups, values: Sequence[float]) -> list[list[float]]:
    left = iter(values)
    return [[next(left) for _ in group] for group in groups]


def grpo(groups: Groups, eps: float) -> list[list[float]]:
    """A_i = (r_i - mean(r)) / std(r), over the group."""
    return [normalise(group, eps) for group in groups]


def dr_grpo(groups: Groups, eps: float) -> list[list[float]]:
    """A_i = r_i - mean(r), over the group."""
    return [[value - statistics.fmean(group) for value in group] for group in groups]


def rloo(groups: Groups, eps: float) -> list[list[float]]:
    """A_i = r_i - 1/(k-1) sum over j != i of r_j."""
    return [
        [
            value - sum(other for j, other in enumerate(group) if j != i) / (len(group) - 1)
            for i, value in enumerate(group)
        ]
        for group in groups
    ]


def reinforce_pp(groups: Groups, eps: float) -> list[list[float]]:
    """A_i = (r_i - mean(r)) / std(r), over the batch."""
    return like(groups, normalise(flat(groups), eps))


def reinforce_pp_baseline(groups: Groups, eps: float) -> list[list[float]]:
    """The group's mean off first, then normalised over the batch."""
    return reinforce_pp(dr_grpo(groups, eps), eps)


def flow_grpo(groups: Groups, eps: float) -> list[list[float]]:
    """The group's mean off, over the deviation of all the batch's rewards."""
    spread = std(flat(groups)) + eps
    return [[value / spread for value in group] for group in dr_grpo(groups, eps)]


def gdpo(rewards: Sequence[Groups], weights: Sequence[float], eps: float) -> list[list[float]]:
    """Each reward normalised in its group, weighted and summed, the sum normalised over the batch."""
    each = [flat(grpo(groups, eps)) for groups in rewards]
    total = [sum(w * a for w, a in zip(weights, row, strict=True)) for row in zip(*each, strict=True)]
    return reinforce_pp(like(rewards[0], total), eps)


def weighted_sum(rewards: Sequence[Groups], weights: Sequence[float]) -> list[list[float]]:
    total = [
        sum(w * r for w, r in zip(weights, row, strict=True)) for row in zip(*map(flat, rewards), strict=True)
    ]
    return like(rewards[0], total)


def soft_overlong(length: int, longest: int, cache: float) -> float:
    """DAPO's three cases."""
    if length <= longest - cache:
        return 0.0
    if length <= longest:
        return ((longest - cache) - length) / cache
    return -1.0
