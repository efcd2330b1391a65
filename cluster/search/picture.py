"""The parallel-coordinates picture of a search: an axis a key, one for the steps and one for the result.

A line is a trial, coloured by its result. Trials that were stopped are thin and dashed, failed ones end before
the result.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cluster.record.tables import LOWER_IS_BETTER
from cluster.search.trials import Trial, show
from configs.search import RANGES, Domain, SearchPlan

_COLOURS = "viridis_r"
_PALE = 0.3
_FAILED = "#b04040"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """One vertical axis: where a trial crosses it, 0 (bottom) to 1, and what is written beside it."""

    label: str
    place: Callable[[Trial], float | None]
    ticks: Sequence[tuple[float, str]]


def parallel_coordinates(plan: SearchPlan, trials: Sequence[Trial], best: Trial) -> bytes:
    """Draw the picture.

    Args:
        plan: The search; its space gives the axes.
        trials: All of them, best first.
        best: The one that is drawn above the others.

    Returns:
        A PNG.
    """
    axes = [_key_axis(key, domain) for key, domain in plan.space.items()]
    measured = [trial.last for trial in trials if trial.last is not None]
    low, high = min(measured), max(measured)
    result = _number_axis(f"held-out {plan.settings.metric}", low, high, lambda trial: trial.last)
    last = max(trial.step for trial in trials)
    axes += [_steps_axis(last), result]
    figure = Figure(figsize=(max(6.0, 2.2 * len(axes)), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.subplots()
    span = high - low or 1.0
    # The palest colours are beyond the worst result: they could not be seen.
    is_lower_better = plan.settings.metric in LOWER_IS_BETTER
    ends = (low, high + _PALE * span) if is_lower_better else (low - _PALE * span, high)
    scale = ScalarMappable(Normalize(*ends), _COLOURS.removesuffix("_r") if is_lower_better else _COLOURS)
    for trial in reversed(trials):
        _draw_trial(plot, axes, trial, scale, is_best=trial.number == best.number)
    _draw_axes(plot, axes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def _draw_trial(
    plot: Axes, axes: Sequence[_Axis], trial: Trial, scale: ScalarMappable, *, is_best: bool
) -> None:
    places = [axis.place(trial) for axis in axes]
    points = [(x, y) for x, y in enumerate(places) if y is not None]
    if trial.state == "failed":
        points = [point for point in points if point[0] < len(axes) - 1]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    plot.plot(
        xs,
        ys,
        color=_FAILED
        if trial.last is None or trial.state == "failed"
        else scale.to_rgba(np.array(trial.last)),
        linewidth=3.2 if is_best else 1.6 if trial.state == "finished" else 1.0,
        linestyle="-" if trial.state == "finished" else "--" if trial.state == "stopped" else ":",
        alpha=1.0 if is_best else 0.8,
        zorder=3 if is_best else 2,
        solid_capstyle="round",
    )
    if is_best:
        plot.annotate(
            f"{trial.name}",
            (xs[-1], ys[-1]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
        )


def _draw_axes(plot: Axes, axes: Sequence[_Axis]) -> None:
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.8}
    for x, axis in enumerate(axes):
        plot.axvline(x, color="#444", linewidth=1.0, zorder=1)
        for y, text in axis.ticks:
            plot.annotate(
                text, (x, y), xytext=(-4, 0), textcoords="offset points", ha="right", va="center", fontsize=8,
                bbox=halo, zorder=4,
            )  # fmt: skip
    plot.set_xticks(range(len(axes)), [axis.label for axis in axes], fontsize=9)
    plot.tick_params(length=0)
    plot.set_yticks([])
    plot.set_xlim(-0.35, len(axes) - 0.55)
    plot.set_ylim(-0.05, 1.05)
    marks = {"finished": "-", "stopped": "--", "failed": ":"}
    lines = [
        line for name, mark in marks.items() for line in plot.plot([], [], mark, color="#444", label=name)
    ]
    plot.legend(
        handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8
    )
    for side in plot.spines.values():
        side.set_visible(False)


def _key_axis(key: str, domain: Domain) -> _Axis:
    label = "\n".join(key.rsplit(".", 1))
    if domain.kind not in RANGES:
        step = 1.0 / max(len(domain.values) - 1, 1)
        return _Axis(
            label=label,
            place=lambda trial: domain.values.index(trial.values[key]) * step,
            ticks=[(index * step, _short(value)) for index, value in enumerate(domain.values)],
        )
    low, high = (float(end) for end in domain.values)
    return _number_axis(
        label, low, high, lambda trial: float(trial.values[key]), domain.kind == "log_uniform"
    )


def _number_axis(
    label: str, low: float, high: float, value_of: Callable[[Trial], float | None], is_log: bool = False
) -> _Axis:
    forward: Callable[[float], float] = math.log10 if is_log else float
    bottom, top = forward(low), forward(high)
    span = top - bottom or 1.0

    def place(trial: Trial) -> float | None:
        value = value_of(trial)
        return None if value is None else (forward(value) - bottom) / span

    middle = [bottom + span * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    ticks = [((at - bottom) / span, f"{10**at if is_log else at:.3g}") for at in middle]
    return _Axis(label=label, place=place, ticks=ticks if high > low else ticks[:1])


def _steps_axis(last: int) -> _Axis:
    marks = sorted({round(last * share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)})
    return _Axis(
        label="steps",
        place=lambda trial: trial.step / max(last, 1),
        ticks=[(mark / max(last, 1), str(mark)) for mark in marks],
    )


def _short(value: Any) -> str:
    text = show(value)
    return text if len(text) <= 18 else text[:17] + "…"
