"""What a reward is compared with and what the difference is divided by: the arithmetic of advantages.

Pure numpy, one column of numbers at a time; knows neither rewards nor blocks. Deviations are unbiased (one is
taken off the count), as in RealSR-R1's released trainer, wherever one is taken. Letters: n chains of a step, in
groups that may differ in size.

The methods, as values of (baseline, scale, whiten):

==================  =========================  ==================================================================
GRPO                group, group_std           Shao et al. 2024 (DeepSeekMath), section 4.1.2
Dr.GRPO             group, none                Liu et al. 2025 (Understanding R1-Zero-Like Training), section 3.2
RLOO                leave_one_out, none        Kool et al. 2019; Ahmadian et al. 2024 (Back to Basics)
REINFORCE++         batch, batch_std           Hu et al. 2025, global advantage normalisation
its baseline form   group, none, whiten        the same, "REINFORCE++ w/ baseline"
Flow-GRPO           group, batch_std           Liu et al. 2025, eq. 4, and the released code's ``global_std``
GDPO                group, group_std, whiten   Liu et al. 2026, eq. 4 to 6; with ``combine=each``
==================  =========================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from configs.schema import AdvantageConfig
from rl.types import Bools

Numbers = NDArray[np.float64]


def compare(values: Numbers, valid: Bools, sizes: Sequence[int], config: AdvantageConfig) -> Numbers:
    """Compare chains with their group or with the whole step.

    Args:
        values: ``[n]``, any unit, group after group.
        valid: ``[n]``: False entries take no part and get 0.
        sizes: Chains of each group; they add up to n.
        config: Its ``baseline``, ``scale`` and ``eps``.

    Returns:
        ``(value - baseline) / (deviation + eps)``, or the bare difference, ``[n]``. 0 where there is nothing to
        compare: a group of one with a baseline of its own group, or a deviation of exactly 0 with ``eps=0``.

    Source:
        The table above.
    """
    out = np.zeros(values.shape, dtype=np.float64)
    batch = values[valid]
    starts = np.cumsum([0, *sizes])
    for start, stop in pairwise(starts):
        rows = np.arange(start, stop)[valid[start:stop]]
        members = values[rows]
        difference = members - baseline_of(members, batch, config.baseline)
        if config.scale == "none":
            out[rows] = difference
        else:
            spread = members if config.scale == "group_std" else batch
            out[rows] = _divided(difference, deviation(spread) + config.eps)
    return out


def baseline_of(members: Numbers, batch: Numbers, kind: str) -> Numbers:
    """Return what each member of a group is compared with.

    Args:
        members: The group's valid values, ``[m]``.
        batch: The step's valid values.
        kind: ``group``, ``leave_one_out`` or ``batch``.

    Returns:
        ``[m]``: the group's mean, the mean of the others in the group (itself where there is no other), or the
        step's mean.
    """
    if kind == "batch":
        return np.full(members.shape, batch.mean() if batch.size else 0.0)
    if kind == "group":
        return np.full(members.shape, members.mean() if members.size else 0.0)
    if members.size < 2:
        return members
    others: Numbers = (members.sum() - members) / (members.size - 1)
    return others


def whiten(table: Numbers, eps: float) -> Numbers:
    """Bring every column of a table ``[n, blocks]`` to mean 0 and deviation 1 (up to ``eps``).

    A column without spread, such as a block that no reward judges, becomes 0.

    Source:
        Liu et al. 2026 (GDPO), eq. 6; Hu et al. 2025 (REINFORCE++).
    """
    if not len(table):
        return table
    centred = table - table.mean(axis=0)
    return np.stack([_divided(column, deviation(column) + eps) for column in centred.T], axis=1)


def deviation(values: Numbers) -> float:
    """Return the unbiased standard deviation; 0 for fewer than two values."""
    return float(values.std(ddof=1)) if values.size > 1 else 0.0


def _divided(values: Numbers, divisor: float) -> Numbers:
    return values / divisor if divisor > 0 else np.zeros_like(values)
