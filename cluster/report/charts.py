"""Charts as inline SVG: lines over steps, stacked columns, and the axes and elements that they are made of.

Pure: numbers in, markup out. Colours are CSS classes (``c1`` .. ``c8``), so light and dark are the stylesheet's
business. A chart carries its values in ``data-chart``; the page's script shows them on hover.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from markupsafe import Markup

Point = tuple[float, float]
WIDTH, HEIGHT = 380.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 24.0
_MOST_COLUMNS = 60
_TICKS = 4
_SMOOTH_FROM = 12
"""Curves with at least this many points also get a moving average."""
_NOTHING = Markup('<p class="empty">not measured</p>')


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawn chart with its title and what it means."""

    title: str
    svg: Markup
    note: str = ""
    legend: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line, or one layer of a stack."""

    name: str
    points: Sequence[Point]
    """(step, value) by step; values are finite."""
    colour: int = 1
    """1 .. 8."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to one axis of the drawing."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value; on a logarithmic axis what is below its low end lies there."""
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1.0)


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
        return _NOTHING
    x, y, ticks = _scales(shown, is_log, limit)
    parts = [*_marks(marked, x), *_grid(y, ticks, WIDTH), *_steps(x), *_band(band, x, y)]
    if limit is not None:
        parts.append(element("line", class_="limit", x1=x.start, x2=x.end, y1=y(limit), y2=y(limit)))
    for line in shown:
        smooth = moving_average(line.points)
        if smooth:
            parts.append(_path(line.points, x, y, f"raw c{line.colour}"))
        parts.append(_path(smooth or line.points, x, y, f"line c{line.colour}"))
    steps = sorted({step for line in shown for step, _ in line.points})
    return _figure(parts, WIDTH, _hover(shown, steps, [x(step) for step in steps]))


def stack_chart(layers: Sequence[Series]) -> Markup:
    """Draw one stacked column of seconds a step (or a few steps, where there are many)."""
    steps = sorted({step for layer in layers for step, _ in layer.points})
    if not steps:
        return _NOTHING
    columns = [_bin(layer, steps) for layer in layers]
    starts = [step for step, _ in columns[0].points]
    tops = [list(accumulate(c.points[index][1] for c in columns)) for index in range(len(starts))]
    ticks = nice_ticks(0.0, max(top[-1] for top in tops))
    width = 3 * WIDTH
    y = Scale(0.0, ticks[-1], HEIGHT - _BOTTOM, _TOP)
    slot = (width - _LEFT - _RIGHT) / len(starts)
    gap = min(slot * 0.2, 3.0)
    parts = list(_grid(y, ticks, width, "s"))
    for index, top in enumerate(tops):
        left = _LEFT + slot * index + gap / 2
        for layer, (low, high) in zip(columns, pairwise([0.0, *top]), strict=True):
            tall = max(y(low) - y(high) - 1.0, 0.0)
            css = f"fill c{layer.colour}"
            parts.append(element("rect", class_=css, x=left, y=y(high), width=slot - gap, height=tall))
    middles = [_LEFT + slot * (index + 0.5) for index in range(len(starts))]
    ends = sorted({0, len(starts) - 1})
    parts += [label(middles[index], HEIGHT - 7, f"{starts[index]:g}", "middle") for index in ends]
    return _figure(parts, width, _hover(columns, starts, middles))


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


# --------------------------------------------------------------------------------- axes


def nice_ticks(low: float, high: float) -> list[float]:
    """Return round values, about four of them, that span ``low .. high``."""
    span = high - low
    if span <= max(1e-9 * max(abs(low), abs(high)), 1e-30):  # flat, but for rounding
        span = max(abs(high), 1e-30) if high else 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if span / (m * magnitude) <= _TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def short(value: float, digits: int = 4) -> str:
    """Format a value for an axis or a tooltip."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        mantissa, _, power = f"{value:.{digits - 3}e}".partition("e")
        return f"{mantissa.rstrip('0').removesuffix('.')}e{int(power)}"
    return f"{value:.{digits}g}"


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Format the values of an axis with as many digits as tell them apart."""
    labels = [[short(tick, digits) for tick in ticks] for digits in range(4, 17)]
    return next((some for some in labels if len(set(some)) == len(ticks)), labels[-1])


def _scales(series: Sequence[Series], is_log: bool, limit: float | None) -> tuple[Scale, Scale, list[float]]:
    steps = [step for line in series for step, _ in line.points]
    values = [value for line in series for _, value in line.points]
    values += [] if limit is None else [limit]
    x = Scale(min(steps), max(steps), _LEFT, WIDTH - _RIGHT)
    if is_log:
        positive = [value for value in values if value > 0] or [1e-9, 1.0]
        # A power of ten beyond these is no float; subnormal and largest values lie on the edge.
        first = max(math.floor(math.log10(min(positive))), -307)
        last = min(max(math.ceil(math.log10(max(positive))), first + 1), 308)
        ticks = [10.0**power for power in range(first, last + 1, max((last - first) // 3, 1))]
        return x, Scale(10.0**first, 10.0**last, HEIGHT - _BOTTOM, _TOP, is_log=True), ticks
    ticks = nice_ticks(min(values), max(values))
    return x, Scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, _TOP), ticks


# --------------------------------------------------------------------------------- elements


def element(tag: str, *children: str, **attributes: float | str) -> Markup:
    """Return an SVG element; what is not markup yet is escaped.

    Args:
        tag: ``path``, ``text``, ...
        children: Elements, or text.
        attributes: Coordinates are rounded to a tenth. ``class_`` stands for ``class``, ``text_anchor`` for
            ``text-anchor``.
    """
    named = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
    )
    return Markup("<{tag}{named}>{inside}</{tag}>").format(
        tag=Markup(tag), named=named, inside=Markup("").join(children)
    )


def label(x: float, y: float, text: str, anchor: str) -> Markup:
    """Return a text of an axis; ``anchor`` is ``start``, ``middle`` or ``end``."""
    return element("text", text, x=x, y=y, text_anchor=anchor)


def polyline(points: Iterable[Point]) -> str:
    """Return the ``d`` of a path through coordinates."""
    return "M" + "L".join(f"{_attribute(x)} {_attribute(y)}" for x, y in points)


def _attribute(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def _grid(y: Scale, ticks: Sequence[float], width: float, unit: str = "") -> Iterable[Markup]:
    for tick, text in zip(ticks, tick_labels(ticks), strict=True):
        yield element("line", class_="grid", x1=_LEFT, x2=width - _RIGHT, y1=y(tick), y2=y(tick))
        yield label(_LEFT - 6, y(tick) + 3.5, f"{text} {unit}".rstrip(), "end")


def _steps(x: Scale) -> Iterable[Markup]:
    yield label(x.start, HEIGHT - 7, f"{x.low:g}", "start")
    if x.low < x.high:
        middle = round((x.low + x.high) / 2)
        yield label(x(middle), HEIGHT - 7, f"{middle:g}", "middle")
        yield label(x.end, HEIGHT - 7, f"{x.high:g}", "end")


def _marks(steps: Sequence[float], x: Scale) -> Iterable[Markup]:
    """Shade steps, each from half a step before to half a step after it."""
    for step in steps:
        left, right = max(x(step - 0.5), x.start), min(x(step + 0.5), x.end)
        if x.low < x.high and left < right:
            tall = HEIGHT - _BOTTOM - _TOP
            yield element("rect", class_="marked", x=left, y=_TOP, width=right - left, height=tall)


def _band(band: Sequence[tuple[float, float, float]], x: Scale, y: Scale) -> Iterable[Markup]:
    if len(band) > 1:
        upper = [(x(step), y(min(high, y.high))) for step, _, high in band]
        lower = [(x(step), y(max(low, y.low))) for step, low, _ in reversed(band)]
        yield element("path", class_="band", d=f"{polyline([*upper, *lower])}Z")


def _path(points: Sequence[Point], x: Scale, y: Scale, css: str) -> Markup:
    drawn = [(x(step), y(value)) for step, value in points]
    if len(drawn) == 1:
        return element("circle", class_=f"dot {css}", cx=drawn[0][0], cy=drawn[0][1], r=3.0)
    return element("path", class_=css, d=polyline(drawn))


def _bin(layer: Series, steps: Sequence[float]) -> Series:
    """Average a layer over equal runs of steps, so that at most ``_MOST_COLUMNS`` columns are left."""
    values = dict(layer.points)
    size = math.ceil(len(steps) / _MOST_COLUMNS)
    points = []
    for start in range(0, len(steps), size):
        inside = steps[start : start + size]
        points.append((inside[0], sum(values.get(step, 0.0) for step in inside) / len(inside)))
    return Series(name=layer.name, points=points, colour=layer.colour)


def _hover(series: Sequence[Series], steps: Sequence[float], at: Sequence[float]) -> str:
    """Return what the script needs: where each step is, and each line's value there, formatted or ``-``."""
    lines = []
    for line in series:
        values = dict(line.points)
        shown = " ".join(short(values[step]) if step in values else "-" for step in steps)
        lines.append({"name": line.name, "colour": line.colour, "values": shown})
    places = " ".join(_attribute(x) for x in at)
    return json.dumps({"x": places, "steps": " ".join(f"{step:g}" for step in steps), "lines": lines})


def _figure(parts: Iterable[Markup], width: float, hover: str) -> Markup:
    cross = element("line", class_="cross", y1=_TOP, y2=HEIGHT - _BOTTOM, x1=-9.0, x2=-9.0)
    return canvas([*parts, cross], width, HEIGHT, data_width=width, data_chart=hover)


def canvas(parts: Iterable[Markup], width: float, height: float, **attributes: float | str) -> Markup:
    """Return the ``<svg>`` of elements."""
    box = f"0 0 {_attribute(width)} {_attribute(height)}"
    return element("svg", *parts, class_="chart", viewBox=box, role="img", **attributes)


def standalone(svg: Markup, css: str) -> str:
    """Return an inline ``<svg>`` as the content of a file of its own."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" style="background: var(--panel)"'
    fonts = ".chart text { font-family: system-ui, sans-serif; }"
    return f"{head}{svg.removeprefix('<svg').removesuffix('</svg>')}<style>{css}{fonts}</style></svg>\n"
