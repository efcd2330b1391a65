"""Alarm for rewards that are fooled: what is trained rises while a watched metric falls.

Pure numpy: the records of past steps in, metrics out, so that a resumed run sees what it saw before. Watched are
rewards with weight 0, measured on training chains, and everything unrewarded that held-out prompts are measured by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from configs.derive import eval_metrics, measured_only
from configs.schema import Config
from rl.advantage.combine import SPREAD_TOLERANCE
from rl.types import JsonDict, Metrics

RISES = 0.95
"""One-sided confidence with which the trained total must rise."""
FALLS = 0.999
"""One-sided confidence with which a watched metric must fall: it is asked at every step, so it must be hard to reach.
One of pure noise reaches it in about one of ten runs of 300 steps (window 50), and counts only if the total rises."""
LEAST_POINTS = 6
"""Fewer measurements in the window say nothing."""
HELD_OUT = "held_out"
TOTAL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A straight line through a quantity over steps."""

    slope: float
    """Change a step, in the quantity's unit."""
    t: float
    """Slope over its standard error."""
    num: int
    """Measurements behind it; Student's t has ``num - 2`` degrees of freedom."""

    def rises(self, confidence: float) -> bool:
        """Whether the slope is above 0 with a one-sided confidence in (0.5, 1)."""
        return self.t > float(stdtrit(self.num - 2, confidence))

    def falls(self, confidence: float) -> bool:
        """Whether the slope is below 0 with a one-sided confidence in (0.5, 1)."""
        return self.t < -float(stdtrit(self.num - 2, confidence))


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedMetric:
    """A metric nobody trains on, and the trained total on the same chains."""

    name: str
    """Its part of metric names: a reward's name, or ``held_out/<key>``."""
    sign: float = 1.0
    """-1 where smaller is better."""

    @property
    def is_held_out(self) -> bool:
        """Whether it looks at held-out prompts, not at training chains."""
        return self.name.startswith(f"{HELD_OUT}/")

    @property
    def key(self) -> str:
        """Name of the reward or metric."""
        return self.name.removeprefix(f"{HELD_OUT}/")

    @property
    def metric(self) -> str:
        """What it measures."""
        return f"eval/{self.key}/mean" if self.is_held_out else f"reward/{self.key}/present_mean"

    @property
    def total(self) -> str:
        """Metric of the total it is held against."""
        return f"eval/{TOTAL}/mean" if self.is_held_out else f"reward/{TOTAL}/mean"

    @property
    def total_name(self) -> str:
        """The total's part of metric names."""
        return f"{HELD_OUT}/{TOTAL}" if self.is_held_out else TOTAL


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """Fit a line by least squares and test its slope.

    The errors of steps are taken as independent: every step has other prompts, and what they differ by is by far the
    largest error of a step's mean. (In runs of the small system the correlation of neighbouring steps about their
    moving average is -0.15 to 0.1.) Differences within rounding count as error, so a constant has t = 0.

    Args:
        points: (step, value), steps distinct, values finite.

    Returns:
        None for fewer than ``LEAST_POINTS``.

    Source:
        Student's t test of a regression coefficient: Fisher 1922, "The goodness of fit of regression formulae".
    """
    num = len(points)
    if num < LEAST_POINTS:
        return None
    steps, values = np.asarray(points, dtype=np.float64).T
    centred = steps - steps.mean()
    spread = float(centred @ centred)
    slope = float(centred @ (values - values.mean())) / spread
    rest = values - values.mean() - slope * centred
    rounding = SPREAD_TOLERANCE * max(1.0, float(np.abs(values).max()))
    error = math.sqrt((float(rest @ rest) / (num - 2) + rounding**2) / spread)
    return Trend(slope=slope, t=slope / error, num=num)


def watched_of(config: Config, lower_better: Mapping[str, bool]) -> tuple[WatchedMetric, ...]:
    """Return everything that may set off the alarm.

    On training chains it counts where it has something to measure. Otherwise chains that get whole more often,
    which raises every reward of pictures, would hide pictures that get worse.

    Args:
        config: The run.
        lower_better: Direction of each of ``eval.metrics``. Scores of rewards are oriented already.
    """
    names = measured_only(config)
    in_training = tuple(WatchedMetric(name=name) for name in names)
    if not config.eval.every:
        return in_training
    held_out = tuple(
        WatchedMetric(name=f"{HELD_OUT}/{name}", sign=-1.0 if lower_better.get(name, False) else 1.0)
        for name in dict.fromkeys((*names, *eval_metrics(config)))
    )
    return in_training + held_out


def alarm_metrics(records: Sequence[JsonDict], watched: Sequence[WatchedMetric], window: int) -> Metrics:
    """Test the trends at the newest record.

    Args:
        records: Past steps by step, the newest last; each has ``step`` and metrics, null where one is not finite.
        watched: What to hold against the total.
        window: Steps back from the newest that count.

    Returns:
        ``trend/*`` of every total and watched metric that has enough measurements, oriented so that above 0 is
        better, and ``alarm/<name>``: 1 where the total rises and the watched metric falls, else 0.
    """
    metrics: Metrics = {}
    for metric in watched:
        total = _recent(records, metric.total, window, 1.0)
        measured = _recent(records, metric.metric, window, metric.sign)
        if total is None or measured is None:
            continue
        for name, line in ((metric.total_name, total), (metric.name, measured)):
            metrics[f"trend/{name}/per_step"] = line.slope
            metrics[f"trend/{name}/t"] = line.t
        metrics[f"alarm/{metric.name}"] = float(total.rises(RISES) and measured.falls(FALLS))
    return metrics


def alarms_on(metrics: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of what has its alarm on in a record."""
    return tuple(
        name.removeprefix("alarm/")
        for name, value in metrics.items()
        if name.startswith("alarm/") and value == 1.0
    )


def started(records: Sequence[JsonDict], window: int) -> tuple[str, ...]:
    """Return what has its alarm on in the newest record and had it off in the window before it."""
    if not records:
        return ()
    *before, newest = records
    since = newest["step"] - window
    known = {name for record in before if record["step"] >= since for name in alarms_on(record)}
    return tuple(name for name in alarms_on(newest) if name not in known)


def describe(name: str, metrics: Mapping[str, float]) -> str:
    """Say in one line what set off an alarm."""
    total = WatchedMetric(name=name).total_name
    measured, trained = (
        f"{metrics[f'trend/{key}/per_step']:+.3g} a step, t = {metrics[f'trend/{key}/t']:.1f}"
        for key in (name, total)
    )
    return f"the watched {name} falls ({measured}) while the trained total rises ({trained})"


def _recent(records: Sequence[JsonDict], metric: str, window: int, sign: float) -> Trend | None:
    if not records:
        return None
    since = records[-1]["step"] - window
    values = [(float(r["step"]), r.get(metric)) for r in records if r["step"] >= since]
    return trend([(step, sign * float(value)) for step, value in values if isinstance(value, int | float)])
