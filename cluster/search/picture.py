"""Parallel coordinates of a search: an axis a key, one for the steps and one for the result; a line is a trial.

A trial is coloured by its result, from pale to strong. Trials that were stopped are dashed, failed ones dotted; these
end before the result. Pointing at a line names its trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from cluster.record.tables import LOWER_IS_BETTER
from cluster.report.charts import Scale, canvas, element, label, polyline, short
from cluster.search.trials import State, Trial, show
from configs.search import RANGES, Domain, SearchPlan

_TALL, _TOP, _BOTTOM, _LEFT, _WIDE = 300.0, 34.0, 44.0, 90.0, 170.0
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_ENDED: tuple[State, ...] = ("finished", "stopped", "failed")
_DASHES: dict[State, str] = {"finished": "none", "stopped": "7 4", "failed": "2 3", "running": "2 3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """One vertical axis: where a trial crosses it, 0 (bottom) to 1, and what is written beside it."""

    title: str
    place: Callable[[Trial], float | None]
    ticks: Sequence[tuple[float, str]]


def parallel_coordinates(plan: SearchPlan, trials: Sequence[Trial], best: Trial) -> Markup:
    """Draw the picture.

    Args:
        plan: The search; its space gives the axes.
        trials: All of them, best first.
        best: The one that is drawn above the others.

    Returns:
        An ``<svg>``; colours are the stylesheet's (``templates/report.css``).
    """
    measured = [trial.last for trial in trials if trial.last is not None]
    result = _number_axis(f"held-out {plan.settings.metric}", min(measured), max(measured), lambda t: t.last)
    axes = [_key_axis(key, domain) for key, domain in plan.space.items()]
    axes += [_steps_axis(max(trial.step for trial in trials)), result]
    is_lower_better = plan.settings.metric in LOWER_IS_BETTER
    parts = [_line(axes, trial, is_lower_better, trial.number == best.number) for trial in reversed(trials)]
    parts.sort(key=lambda line: 'class="best"' in line)
    for index, axis in enumerate(axes):
        parts += _axis(index, axis)
    for index, state in enumerate(_ENDED):
        x = _LEFT + 110.0 * index
        css = {"class_": "trial", "stroke_dasharray": _DASHES[state]}
        parts += [element("path", d=polyline([(x, 10.0), (x + 30, 10.0)]), **css)]
        parts += [label(x + 36, 14.0, state, "start")]
    return canvas(parts, 2 * _LEFT + _WIDE * (len(axes) - 1), _TALL)


def _at(index: int, place: float) -> tuple[float, float]:
    return _LEFT + _WIDE * index, _TALL - _BOTTOM - (_TALL - _BOTTOM - _TOP) * place


def _line(axes: Sequence[_Axis], trial: Trial, is_lower_better: bool, is_best: bool) -> Markup:
    places = [axis.place(trial) for axis in axes]
    drawn = [_at(index, place) for index, place in enumerate(places) if place is not None]
    style = "stroke: var(--bad)"
    if trial.state == "failed" or places[-1] is None:
        drawn = drawn[: len(axes) - 1]
    else:
        share = 1.0 - places[-1] if is_lower_better else places[-1]
        style = f"stroke: color-mix(in oklab, var(--c1) {20 + 80 * share:.0f}%, var(--line))"
    tried = ", ".join(f"{key} {show(value)}" for key, value in trial.values.items())
    result = "" if trial.last is None else f": {trial.last:.4f}"
    path = element(
        "path",
        element("title", f"{trial.name}{result} after {trial.step} steps; {tried}"),
        class_="best" if is_best else "trial",
        d=polyline(drawn),
        style=style,
        stroke_dasharray=_DASHES[trial.state],
    )
    x, y = drawn[-1]
    return path + label(x + 10, y + 4, trial.name, "start") if is_best else path


def _axis(index: int, axis: _Axis) -> list[Markup]:
    (x, bottom), (_, top) = _at(index, 0.0), _at(index, 1.0)
    parts = [element("line", class_="axis", x1=x, x2=x, y1=top, y2=bottom)]
    parts += [label(x - 6, _at(index, place)[1] + 4, text, "end") for place, text in axis.ticks]
    first, _, second = axis.title.partition("\n")
    return [*parts, label(x, bottom + 18, first, "middle"), label(x, bottom + 32, second, "middle")]


def _key_axis(key: str, domain: Domain) -> _Axis:
    title = "\n".join(key.rsplit(".", 1))
    if domain.kind not in RANGES:
        step = 1.0 / max(len(domain.values) - 1, 1)
        return _Axis(
            title=title,
            place=lambda trial: domain.values.index(trial.values[key]) * step,
            ticks=[(index * step, _cut(value)) for index, value in enumerate(domain.values)],
        )
    low, high = (float(end) for end in domain.values)
    return _number_axis(title, low, high, lambda t: float(t.values[key]), domain.kind == "log_uniform")


def _number_axis(
    title: str, low: float, high: float, value_of: Callable[[Trial], float | None], is_log: bool = False
) -> _Axis:
    scale = Scale(low, high, 0.0, 1.0, is_log)

    def place(trial: Trial) -> float | None:
        value = value_of(trial)
        return None if value is None else scale(value)

    space = np.geomspace if is_log else np.linspace
    ticks = [(scale(value), short(value, 3)) for value in space(low, high, len(_SHARES)).tolist()]
    return _Axis(title=title, place=place, ticks=ticks if high > low else ticks[:1])


def _steps_axis(last: int) -> _Axis:
    marks = sorted({round(last * share) for share in _SHARES})
    return _Axis(
        title="steps",
        place=lambda trial: trial.step / max(last, 1),
        ticks=[(mark / max(last, 1), str(mark)) for mark in marks],
    )


def _cut(value: Any) -> str:
    text = show(value)
    return text if len(text) <= 14 else text[:13] + "…"
