"""Small charts as inline SVG, for a report that opens without a network.

Pure: numbers in, markup out. Colours are CSS classes (``c1`` .. ``c8``), so light and dark are the template's
business. Each chart carries its values in ``data-chart``; the template's script shows them on hover.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from cluster.report.scale import Scale, coordinate, log10, nice_ticks, short

Point = tuple[float, float]
WIDTH, HEIGHT = 380.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 24.0
_MOST_COLUMNS = 60
_SMOOTH_FROM = 12
"""Curves with at least this many points also get a moving average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line, or one layer of a stack."""

    name: str
    points: Sequence[Point]
    """(step, value) by step; values are finite."""
    colour: int = 1
    """1 .. 8."""


def line_chart(
    series: Sequence[Series],
    *,
    is_log: bool = False,
    limit: float | None = None,
    marked: Sequence[float] = (),
    band: Sequence[tuple[float, float, float]] = (),
) -> Markup:
    """Draw lines over steps.

    Args:
        series: Lines; empty ones are left out.
        is_log: Logarithmic values; those not above 0 are drawn at the lower end.
        limit: A value to mark by a dashed line, such as a tolerance.
        marked: Steps to set off by a shade, such as those of an alarm.
        band: (step, low, high) of a range around a line, shaded. It may leave the chart, and is cut there.

    Returns:
        An ``<svg>``, or a note that nothing has been measured.
    """
    shown = [line for line in series if line.points]
    if not shown:
        return Markup('<p class="empty">not measured</p>')
    x, y, ticks = _scales(shown, is_log, limit)
    parts = [_marks(marked, x), _grid(y, ticks), _steps(x), _band(band, x, y)]
    if limit is not None:
        parts.append(
            Markup('<line class="limit" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                coordinate(x.start), coordinate(x.end), coordinate(y(limit)), coordinate(y(limit))
            )
        )
    for line in shown:
        smooth = moving_average(line.points)
        if smooth:
            parts.append(_path(line.points, x, y, f"raw c{line.colour}"))
        parts.append(_path(smooth or line.points, x, y, f"line c{line.colour}"))
    return _svg(parts, _hover(shown, x))


def stack_chart(layers: Sequence[Series], unit: str = "s") -> Markup:
    """Draw one stacked column a step (or a few steps, where there are many)."""
    steps = sorted({step for layer in layers for step, _ in layer.points})
    if not steps:
        return Markup('<p class="empty">not measured</p>')
    binned = [_bin(layer, steps) for layer in layers]
    starts = [step for step, _ in binned[0].points]
    heights = [sum(layer.points[index][1] for layer in binned) for index in range(len(starts))]
    ticks = nice_ticks(0.0, max(heights))
    wide = 3 * WIDTH
    y = Scale(0.0, max(ticks[-1], *heights), HEIGHT - _BOTTOM, _TOP)
    slot = (wide - _LEFT - _RIGHT) / len(starts)
    x = Scale(0, len(starts), _LEFT, wide - _RIGHT)
    parts = [_grid(y, ticks, wide, unit)]
    for index, start in enumerate(starts):
        base = 0.0
        for layer in binned:
            value = layer.points[index][1]
            parts.append(_bar(layer.colour, x(index), slot, y(base), y(base + value)))
            base += value
        if index in {0, len(starts) - 1}:
            parts.append(_label(x(index) + slot / 2, HEIGHT - 7, f"{start:g}", "middle"))
    centres = Scale(0, 1, _LEFT + slot / 2, _LEFT + slot * 1.5)
    indexed = [
        Series(name=s.name, colour=s.colour, points=[(i, p[1]) for i, p in enumerate(s.points)])
        for s in binned
    ]
    return _svg(parts, _hover(indexed, centres, starts), wide)


def moving_average(points: Sequence[Point]) -> list[Point]:
    """Return a centred moving average over an eighth of the points; [] where they are few."""
    if len(points) < _SMOOTH_FROM:
        return []
    reach = max(len(points) // 16, 1)
    smooth = []
    for index, (step, _) in enumerate(points):
        around = points[max(index - reach, 0) : index + reach + 1]
        smooth.append((step, sum(value for _, value in around) / len(around)))
    return smooth


def _scales(series: Sequence[Series], is_log: bool, limit: float | None) -> tuple[Scale, Scale, list[float]]:
    steps = [step for line in series for step, _ in line.points]
    values = [value for line in series for _, value in line.points]
    x = Scale(min(steps), max(steps), _LEFT, WIDTH - _RIGHT)
    if is_log:
        positive = [value for value in [*values, limit or 0.0] if value > 0] or [1e-9, 1.0]
        first, last = math.floor(log10(min(positive))), math.ceil(log10(max(positive)))
        last = max(last, first + 1)
        ticks = [10.0**power for power in range(first, last + 1, max((last - first) // 3, 1))]
        return x, Scale(10.0**first, 10.0**last, HEIGHT - _BOTTOM, _TOP, is_log=True), ticks
    if limit is not None:
        values.append(limit)
    ticks = nice_ticks(min(values), max(values))
    return x, Scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, _TOP), ticks


def _bin(layer: Series, steps: Sequence[float]) -> Series:
    """Average a layer over equal runs of steps, so that at most ``_MOST_COLUMNS`` columns are left."""
    values = dict(layer.points)
    size = math.ceil(len(steps) / _MOST_COLUMNS)
    points = []
    for start in range(0, len(steps), size):
        inside = steps[start : start + size]
        points.append((inside[0], sum(values.get(step, 0.0) for step in inside) / len(inside)))
    return Series(name=layer.name, points=points, colour=layer.colour)


def _grid(y: Scale, ticks: Sequence[float], width: float = WIDTH, unit: str = "") -> Markup:
    parts = []
    for tick in ticks:
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                coordinate(_LEFT), coordinate(width - _RIGHT), coordinate(y(tick)), coordinate(y(tick))
            )
        )
        parts.append(_label(_LEFT - 6, y(tick) + 3.5, f"{short(tick)}{' ' + unit if unit else ''}", "end"))
    return Markup("").join(parts)


def _steps(x: Scale) -> Markup:
    first = _label(x.start, HEIGHT - 7, f"{x.low:g}", "start")
    if x.low == x.high:
        return first
    middle = round((x.low + x.high) / 2)
    return (
        first
        + _label(x(middle), HEIGHT - 7, f"{middle:g}", "middle")
        + _label(x.end, HEIGHT - 7, f"{x.high:g}", "end")
    )


def _marks(steps: Sequence[float], x: Scale) -> Markup:
    """Shade steps, each from half a step before to half a step after it."""
    parts = []
    for step in steps:
        left, right = max(x(step - 0.5), x.start), min(x(step + 0.5), x.end)
        if x.low < x.high and left < right:
            parts.append(
                Markup('<rect class="marked" x="{}" y="{}" width="{}" height="{}"/>').format(
                    coordinate(left),
                    coordinate(_TOP),
                    f"{right - left:.2f}",
                    coordinate(HEIGHT - _BOTTOM - _TOP),
                )
            )
    return Markup("").join(parts)


def _band(band: Sequence[tuple[float, float, float]], x: Scale, y: Scale) -> Markup:
    if len(band) < 2:
        return Markup("")
    upper = [(step, min(high, y.high)) for step, _, high in band]
    lower = [(step, max(low, y.low)) for step, low, _ in reversed(band)]
    corners = "L".join(f"{coordinate(x(step))} {coordinate(y(value))}" for step, value in [*upper, *lower])
    return Markup('<path class="band" d="M{}Z"/>').format(corners)


def _path(points: Sequence[Point], x: Scale, y: Scale, css: str) -> Markup:
    if len(points) == 1:
        step, value = points[0]
        return Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>').format(
            css, coordinate(x(step)), coordinate(y(value))
        )
    path = "M" + "L".join(f"{coordinate(x(step))} {coordinate(y(value))}" for step, value in points)
    return Markup('<path class="{}" d="{}"/>').format(css, path)


def _bar(colour: int, left: float, slot: float, bottom: float, top: float) -> Markup:
    gap = min(slot * 0.2, 3.0)
    height = max(bottom - top - 1.0, 0.0)
    return Markup('<rect class="fill c{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        colour, coordinate(left + gap / 2), coordinate(top), coordinate(slot - gap), coordinate(height)
    )


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        coordinate(x), coordinate(y), anchor, text
    )


def _hover(series: Sequence[Series], x: Scale, names: Sequence[float] | None = None) -> str:
    """Return what the script needs: by step its coordinate and each line's value, already formatted."""
    steps = sorted({step for line in series for step, _ in line.points})
    lines = []
    for line in series:
        values = dict(line.points)
        shown = [short(values[step]) if step in values else None for step in steps]
        lines.append({"name": line.name, "colour": line.colour, "values": shown})
    labels = [f"{step if names is None else names[int(step)]:g}" for step in steps]
    return json.dumps({"x": [round(x(step), 1) for step in steps], "steps": labels, "lines": lines})


def _svg(parts: Sequence[Markup], hover: str, width: float = WIDTH) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" data-width="{w}" data-chart="{hover}" role="img">'
        '{body}<line class="cross" y1="{top}" y2="{bottom}" x1="-9" x2="-9"/></svg>'
    ).format(
        w=coordinate(width),
        h=coordinate(HEIGHT),
        hover=escape(hover),
        body=Markup("").join(parts),
        top=coordinate(_TOP),
        bottom=coordinate(HEIGHT - _BOTTOM),
    )
