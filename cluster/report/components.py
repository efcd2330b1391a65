"""Rewards in a report, each by itself: its curves, its numbers, and what it is bought with.

Pure: numbers in, charts and table cells out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.record import tables
from cluster.record.run_data import Run, mean
from cluster.record.tables import number
from cluster.report.charts import Chart, Series, line_chart

TOTAL = "total"
_LAST = 10
"""Steps that the numbers of the table are means of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One reward's row of the table."""

    name: str
    role: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One correlation."""

    text: str
    share: float
    """Its size, 0 .. 1, for the shade."""
    is_negative: bool = False


COLUMNS = (
    ("mean", "mean"),
    ("spread", "std"),
    ("spread in a group", "group_std"),
    ("groups without spread", "zero_spread_frac"),
    ("invalid", "invalid_frac"),
    ("missing", "missing_frac"),
)
"""Headings of the table, and the endings of ``reward/<name>/...`` behind them."""


def components(run: Run) -> list[str]:
    """Return the rewards that were measured, the paper's first; the total is none."""
    rewards = [
        parts[1]
        for parts in (name.split("/") for name in run.metric_names)
        if len(parts) == 3 and parts[0] == "reward" and parts[1] != TOTAL
    ]
    known = [name for name in tables.REWARDS if name in rewards]
    return list(dict.fromkeys(known + rewards))


def is_judge(run: Run, name: str) -> bool:
    """Return whether a reward was measured and never trained on."""
    return run.number(f"rewards.{name}.weight") == 0 and run.setting("advantage.gate") != name


def reward_charts(run: Run) -> list[Chart]:
    """Return the total's curve, then each component's, between one standard deviation over chains either way."""
    charts = []
    for name in [TOTAL, *components(run)]:
        points = run.curve(f"reward/{name}/mean")
        if not points:
            continue
        note = f"{number(points[0][1])} → {number(points[-1][1])}"
        note += ", measured only" if is_judge(run, name) else ""
        spread = dict(run.curve(f"reward/{name}/std"))
        band = [
            (step, value - spread[step], value + spread[step]) for step, value in points if step in spread
        ]
        svg = line_chart([Series(name=name, points=points, colour=1 if name == TOTAL else 2)], band=band)
        charts.append(Chart(title=name.replace("_", " "), svg=svg, note=note))
    return charts


def share_charts(run: Run) -> list[Chart]:
    """Return the shares that say whether a reward still works, one line a reward."""
    charts = []
    for title, ending, note in (
        ("Groups without spread", "zero_spread_frac", "share of groups that a reward does not tell apart"),
        ("Invalid scores", "invalid_frac", "share of chains whose scorer failed"),
    ):
        lines = [
            Series(name=name, points=points, colour=1 + index % 8)
            for index, name in enumerate(components(run))
            if (points := run.curve(f"reward/{name}/{ending}"))
        ]
        if lines:
            legend = tuple((line.name, line.colour) for line in lines)
            charts.append(Chart(title=title, svg=line_chart(lines), note=note, legend=legend))
    return charts


def held_out_charts(run: Run) -> list[Chart]:
    """Return what held-out prompts were measured by while the run trained, where that was more than once."""
    charts = []
    for metric in run.metric_names:
        match metric.split("/"):
            case ["eval", name, "mean"] if len(points := run.curve(metric)) > 1:
                note = f"{number(points[0][1])} → {number(points[-1][1])}"
                label = tables.NAMES.get(name, name.replace("_", " "))
                svg = line_chart([Series(name=name, points=points, colour=1 if name == TOTAL else 5)])
                charts.append(Chart(title=label, svg=svg, note=note))
    return charts


def component_rows(run: Run) -> list[Component]:
    """Return the table by reward: means of the last steps."""
    rows = []
    for name in components(run):
        weight = run.number(f"rewards.{name}.weight")
        role = "judge" if is_judge(run, name) else f"weight {1.0 if weight is None else weight:g}"
        cells = tuple(_last(run, f"reward/{name}/{ending}", ending) for _, ending in COLUMNS)
        rows.append(Component(name=name, role=role, cells=cells))
    return rows


def correlation_rows(run: Run) -> tuple[list[str], list[tuple[str, list[Cell | None]]]]:
    """Return the names across, and each row's name with its correlations (below the diagonal only)."""
    names = [TOTAL, *components(run)]
    values = {
        pair: _correlation(run, *pair) for i, a in enumerate(names) for pair in [(a, b) for b in names[:i]]
    }
    measured = [name for name in names if any(name in pair and v is not None for pair, v in values.items())]
    rows = []
    for index, name in enumerate(measured[1:], start=1):
        rows.append((name, [_cell(values[name, other]) for other in measured[:index]]))
    return measured[:-1], rows


def _correlation(run: Run, first: str, second: str) -> float | None:
    points = run.curve(f"reward/{first}/corr/{second}") or run.curve(f"reward/{second}/corr/{first}")
    return mean([value for _, value in points[-_LAST:]]) if points else None


def _cell(value: float | None) -> Cell | None:
    if value is None:
        return None
    return Cell(text=f"{value:+.2f}", share=round(min(abs(value), 1.0), 2), is_negative=value < 0)


def _last(run: Run, metric: str, ending: str) -> str:
    values: Sequence[float] = [value for _, value in run.curve(metric)[-_LAST:]]
    if not values:
        return "-"
    return f"{mean(values):.0%}" if ending.endswith("_frac") else number(mean(values))
