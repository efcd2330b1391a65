"""The report's picture of a step: what every worker did when, from ``timeline.json``; and the trackers' fates."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from cluster.record.run_data import Run
from cluster.record.rundir import RunDir
from cluster.record.timeline import DRIVER, STEP, covered_frac, read_timeline, spans_of
from cluster.record.trackers.base import read_notes
from cluster.report.charts import WIDTH
from cluster.report.components import Chart
from cluster.report.scale import Scale, coordinate, nice_ticks, short
from rl.spans import Span

_WIDE = 3 * WIDTH
_LEFT, _RIGHT, _TOP, _ROW, _FOOT = 190.0, 64.0, 6.0, 17.0, 24.0
_MOST_ROWS = 48
_KINDS = (
    (1, "sample: text, pictures, groups", ("collect", "group", "write", "paint")),
    (2, "score", ("score", "judge")),
    (3, "update", ("update", "optimizer step", "score before the update")),
    (5, "publish and prove", ("publish", "load weights", "canary", "score the canary")),
    (8, "build batches, log, save, evaluate", ()),
)
"""Colour, what it stands for, and the spans that have it; the last takes the others."""
_SLOW = 1.2
"""The slowest step is drawn too where it took this many times the median."""


@dataclass(frozen=True, slots=True)
class Row:
    """One lane of one worker in a step."""

    label: str
    spans: Sequence[Span]
    busy_frac: float


def step_charts(run: Run) -> list[Chart]:
    """Draw a typical step, and the slowest where it is much slower; [] where there is no timeline."""
    by_worker = spans_of(read_timeline(RunDir(run.path).timeline))
    steps = {int(s.details[STEP]): s for s in by_worker.get(DRIVER, ()) if s.name == STEP}
    if not steps:
        return []
    median = statistics.median(step.seconds for step in steps.values())
    typical = min(steps.values(), key=lambda step: abs(step.seconds - median))
    slowest = max(steps.values(), key=lambda step: step.seconds)
    charts = [_chart("A typical step", typical, by_worker)]
    if slowest.seconds > _SLOW * median:
        charts.append(_chart("The slowest step", slowest, by_worker))
    return charts


def rows_of(step: Span, by_worker: Mapping[str, Sequence[Span]]) -> list[Row]:
    """Return a row for every lane that did something in the step: the driver's first, then by name."""
    rows = []
    for worker in sorted(by_worker, key=lambda name: (name != DRIVER, name)):
        inside = [
            s for s in by_worker[worker]
            if s.end_s > step.begin_s and s.begin_s < step.end_s and not (worker == DRIVER and s.name == STEP)
        ]  # fmt: skip
        for lane in dict.fromkeys(s.lane for s in inside):
            its = [s for s in inside if s.lane == lane]
            label = f"{worker} · {lane}" if lane else worker
            rows.append(Row(label, its, covered_frac(step, its)))
    return rows


def tracker_faults(run: Run) -> list[str]:
    """Return a line for every tracker that failed."""
    notes = read_notes(RunDir(run.path).tracking)
    return [
        f"Tracker {name} failed at {note['at']} and was left out from there on: {note['reason']}"
        for name, note in notes.items()
        if note["state"] == "failed"
    ]


def _chart(title: str, step: Span, by_worker: Mapping[str, Sequence[Span]]) -> Chart:
    rows = rows_of(step, by_worker)
    together = covered_frac(step, [s for row in rows for s in row.spans])
    workers = covered_frac(step, [s for row in rows if not row.label.startswith(DRIVER) for s in row.spans])
    hidden = f"; {len(rows) - _MOST_ROWS} lanes are not drawn" if len(rows) > _MOST_ROWS else ""
    return Chart(
        title=f"{title}: {step.details[STEP]}",
        svg=_gantt(step, rows[:_MOST_ROWS]),
        note=(
            f"{step.seconds:.2f} s; spans account for {together:.1%} of it, those of the workers alone for "
            f"{workers:.1%}{hidden}"
        ),
        legend=tuple((said, colour) for colour, said, _ in _KINDS),
    )


def _gantt(step: Span, rows: Sequence[Row]) -> Markup:
    bottom = _TOP + _ROW * len(rows)
    x = Scale(0.0, step.seconds, _LEFT, _WIDE - _RIGHT)
    ticks = [tick for tick in nice_ticks(0.0, step.seconds, 6) if tick <= step.seconds]
    parts = [
        Markup('<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>').format(
            x=coordinate(x(tick)), top=coordinate(_TOP), bottom=coordinate(bottom)
        )
        + _text(x(tick), bottom + 14, f"{short(tick)} s", "middle")
        for tick in ticks
    ]
    for index, row in enumerate(rows):
        top = _TOP + _ROW * index
        parts.append(_text(_LEFT - 8, top + 12, row.label, "end"))
        parts.append(_text(_WIDE - 2, top + 12, f"{row.busy_frac:.0%}", "end"))
        parts += _bars(step, row, top, x)
    return Markup('<svg class="chart" viewBox="0 0 {w} {h}" role="img">{body}</svg>').format(
        w=coordinate(_WIDE), h=coordinate(bottom + _FOOT), body=Markup("").join(parts)
    )


def _bars(step: Span, row: Row, top: float, x: Scale) -> list[Markup]:
    """Draw a row; what happens inside of something else is drawn over it, lower."""
    parts, open_until = [], list[float]()
    for one in row.spans:
        open_until = [end for end in open_until if end > one.begin_s + 1e-6]
        inset = min(len(open_until), 3) * 2.5
        open_until.append(one.end_s)
        left = x(max(one.begin_s - step.begin_s, 0.0))
        right = x(min(one.end_s - step.begin_s, step.seconds))
        parts.append(
            Markup(
                '<rect class="fill c{}" x="{:.2f}" y="{}" width="{:.2f}" height="{}" rx="1.5"'
                ' stroke="var(--panel)" stroke-width="0.6"><title>{}</title></rect>'
            ).format(
                _colour(one.name),
                left,
                coordinate(top + 2 + inset),
                max(right - left, 0.8),
                coordinate(_ROW - 4 - 2 * inset),
                _said(step, one),
            )
        )
    return parts


def _said(step: Span, one: Span) -> str:
    details = ", ".join(f"{name} {value}" for name, value in one.details.items())
    return f"{one.name}: {one.seconds:.3f} s from {one.begin_s - step.begin_s:.3f} s; {details}".rstrip("; ")


def _colour(name: str) -> int:
    return next((colour for colour, _, names in _KINDS if name in names), _KINDS[-1][0])


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        coordinate(x), coordinate(y), anchor, escape(text)
    )
