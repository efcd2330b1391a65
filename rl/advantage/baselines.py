"""Advantage estimators: what a chain is compared with, and what the difference is divided by.

Pure numpy, one column of numbers at a time; knows neither rewards nor blocks. Deviations are unbiased (one is
taken off the count), as in RealSR-R1's released trainer, wherever one is taken. Letters: n chains of a step, in
groups that may differ in size.

The methods, as values of (baseline, scale, whiten, over):

==================  ===============================  ============================================================
GRPO                group, group_std                 Shao et al. 2024 (DeepSeekMath), section 4.1.2
Dr.GRPO             group, none                      Liu et al. 2025 (Understanding R1-Zero-Like Training), 3.2
RLOO                leave_one_out, none              Kool et al. 2019; Ahmadian et al. 2024 (Back to Basics)
REINFORCE++         batch, batch_std, -, actions     Hu et al. 2025, and the released code
its baseline form   group, none, whiten, actions     the same, "REINFORCE++ w/ baseline"
Flow-GRPO           group, batch_std                 Liu et al. 2025, eq. 4, and the released code's ``global_std``
GDPO                group, group_std, whiten         Liu et al. 2026, eq. 4 to 6; with ``combine=each``
==================  ===============================  ============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from configs.schema import AdvantageConfig
from rl.errors import ConfigError
from rl.targets import check_function, load_target
from rl.types import Bools

Numbers = NDArray[np.float64]
Baseline = Callable[[Numbers, NDArray[np.intp], Numbers], Numbers]
"""``baseline(values, groups, weights)`` says what each chain is compared with, ``[n]`` in the unit of the values.

``values`` ``[n]`` are the chains' rewards (or their weighted sum), larger is better; ``groups`` ``[n]`` numbers the
group each chain is of, in rising order; ``weights`` ``[n]`` is how much a chain counts in a mean over the step: 1, or
its number of actions (``advantage.over=actions``).
"""
ARGUMENTS = ("values", "groups", "weights")


def group_mean(values: Numbers, groups: NDArray[np.intp], weights: Numbers) -> Numbers:
    """Mean of the chain's group."""
    del weights
    return _by_group(values, groups, lambda members: np.full(members.shape, members.mean()))


def mean_of_others(values: Numbers, groups: NDArray[np.intp], weights: Numbers) -> Numbers:
    """Mean of the others in the group; a chain that has no other is compared with itself."""
    del weights
    return _by_group(
        values,
        groups,
        lambda members: (members.sum() - members) / (members.size - 1) if members.size > 1 else members,
    )


def batch_mean(values: Numbers, groups: NDArray[np.intp], weights: Numbers) -> Numbers:
    """Mean of the step."""
    del groups
    return np.full(values.shape, mean(values, weights))


BASELINES: Mapping[str, Baseline] = {
    "group": group_mean,
    "leave_one_out": mean_of_others,
    "batch": batch_mean,
}
"""By the name in the configuration."""
WITHIN_GROUP = ("group", "leave_one_out")
"""Baselines that give every chain of a group of equals its own value, so that the group has nothing to teach."""


def find_baseline(name: str) -> Baseline:
    """Return the baseline of a name in ``BASELINES``, or of ``package.module:function``.

    Raises:
        ConfigError: If there is none, or it cannot be called as a ``Baseline``.
    """
    if name in BASELINES:
        return BASELINES[name]
    key = "advantage.baseline"
    function: Baseline = load_target(name, key=key)
    check_function(function, ARGUMENTS, key=key)
    return function


def compare(
    values: Numbers,
    valid: Bools,
    sizes: Sequence[int],
    config: AdvantageConfig,
    weights: Numbers | None = None,
) -> Numbers:
    """Compare chains with their group or with the whole step.

    Args:
        values: ``[n]``, any unit, group after group.
        valid: ``[n]``: False entries take no part and get 0.
        sizes: Chains of each group; they add up to n.
        config: Its ``baseline``, ``scale`` and ``eps``.
        weights: ``[n]``: how much each chain counts in means over the step; None is 1 for all.

    Returns:
        ``(value - baseline) / (deviation + eps)``, or the bare difference, ``[n]``. 0 where there is nothing to
        compare: a group of one with a baseline of its own group, or a deviation of exactly 0 with ``eps=0``.

    Raises:
        ConfigError: If a baseline of the user's own is not one finite number a chain.

    Source:
        The table above.
    """
    out = np.zeros(values.shape, dtype=np.float64)
    if not valid.any():
        return out
    groups = np.repeat(np.arange(len(sizes)), sizes)[valid]
    members = values[valid]
    counts = np.ones_like(members) if weights is None else weights[valid]
    baseline = np.asarray(find_baseline(config.baseline)(members, groups, counts), dtype=np.float64)
    if baseline.shape != members.shape or not np.isfinite(baseline).all():
        raise ConfigError(
            f"advantage.baseline: {config.baseline} gave {_describe(baseline)} for {members.size} chains; want one "
            "finite number a chain"
        )
    difference = members - baseline
    if config.scale == "group_std":
        spread = _by_group(members, groups, lambda group: np.full(group.shape, deviation(group)))
    elif config.scale == "batch_std":
        spread = np.full(members.shape, deviation(members, counts))
    else:
        out[valid] = difference
        return out
    out[valid] = _divided(difference, spread + config.eps)
    return out


def whiten(table: Numbers, eps: float, weights: Numbers | None = None) -> Numbers:
    """Bring every column of a table ``[n, blocks]`` to mean 0 and deviation 1 (up to ``eps``).

    A column without spread, such as a block that no reward judges, becomes 0.

    Args:
        table: Advantages.
        eps: Added to the deviation.
        weights: ``[n, blocks]``: how much each entry counts; None is 1 for all.

    Source:
        Liu et al. 2026 (GDPO), eq. 6; Hu et al. 2025 (REINFORCE++).
    """
    out = np.zeros_like(table)
    for block in range(table.shape[1]):
        column = table[:, block]
        counts = np.ones_like(column) if weights is None else weights[:, block]
        spread = np.full(column.shape, deviation(column, counts) + eps)
        out[:, block] = _divided(column - mean(column, counts), spread)
    return out


def mean(values: Numbers, weights: Numbers) -> float:
    """Return the weighted mean; 0 where nothing counts."""
    total = weights.sum()
    return float((weights * values).sum() / total) if total > 0 else 0.0


def deviation(values: Numbers, weights: Numbers | None = None) -> float:
    """Return the unbiased standard deviation of values that count ``weights`` times each; 0 for less than two."""
    counts = np.ones_like(values) if weights is None else weights
    total = counts.sum()
    if total <= 1:
        return 0.0
    return float(np.sqrt((counts * (values - mean(values, counts)) ** 2).sum() / (total - 1)))


def _by_group(values: Numbers, groups: NDArray[np.intp], function: Callable[[Numbers], Numbers]) -> Numbers:
    """Apply a function to the values of each group in turn, ``[n]``."""
    out = np.empty_like(values)
    for group in np.unique(groups):
        rows = groups == group
        out[rows] = function(values[rows])
    return out


def _divided(values: Numbers, divisors: Numbers) -> Numbers:
    """Divide; 0 where the divisor is."""
    quotients: Numbers = np.divide(values, divisors, out=np.zeros_like(values), where=divisors > 0)
    return quotients


def _describe(values: Numbers) -> str:
    return f"shape {list(values.shape)}" if np.isfinite(values).all() else "NaN or infinity"
