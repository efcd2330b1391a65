"""Rewards in a report, each by itself: curves, numbers, correlations, its alarm, its best and worst chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from cluster.record import tables
from cluster.record.run_data import Run
from cluster.record.tables import number
from cluster.report.chains import Column, answer_column, rank, truth_columns
from cluster.report.charts import Chart, Point, Series, line_chart
from cluster.report.spans import Span, mark_markup
from rl.measure.hacking import WatchedMetric

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
class Alarm:
    """A watched metric that set off an alarm."""

    name: str
    when: str
    why: str
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extreme:
    """A reward's best and worst recorded chains."""

    name: str
    is_measured_only: bool
    columns: Sequence[Column]
    texts: Sequence[tuple[str, Sequence[Span]]]
    """Title of each chain and everything it wrote."""


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


def is_measured_only(run: Run, name: str) -> bool:
    """Return whether a reward was measured and never trained on."""
    return run.number(f"rewards.{name}.weight") == 0 and run.setting("advantage.gate") != name


def reward_charts(run: Run) -> list[Chart]:
    """Return the total's curve, then each component's, between one standard deviation over chains either way."""
    charts = []
    for name in [TOTAL, *components(run)]:
        points = run.curve(f"reward/{name}/mean")
        if not points:
            continue
        note = _change(points) + (", measured only" if is_measured_only(run, name) else "")
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
                label = tables.NAMES.get(name, name.replace("_", " "))
                svg = line_chart([Series(name=name, points=points, colour=1 if name == TOTAL else 5)])
                charts.append(Chart(title=label, svg=svg, note=_change(points)))
    return charts


def component_rows(run: Run) -> list[Component]:
    """Return the table by reward: means of the last steps."""
    rows = []
    for name in components(run):
        weight = run.number(f"rewards.{name}.weight")
        role = f"weight {1.0 if weight is None else weight:g}"
        if is_measured_only(run, name):
            role = "measured only"
        cells = tuple(_last(run, f"reward/{name}/{ending}", ending) for _, ending in COLUMNS)
        rows.append(Component(name=name, role=role, cells=cells))
    return rows


def correlation_rows(run: Run) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """Return the names across, and each row's name with its correlations (below the diagonal only)."""
    names = [TOTAL, *components(run)]
    values = {(row, column): _correlation(run, row, column) for column, row in combinations(names, 2)}
    known = {name for pair, value in values.items() if value is not None for name in pair}
    measured = [name for name in names if name in known]
    rows = [
        (name, [values[name, other] for other in measured[:index]]) for index, name in enumerate(measured)
    ]
    return measured[:-1], rows[1:]


def _change(points: Sequence[Point]) -> str:
    """Return a curve's first and last value."""
    return f"{number(points[0][1])} → {number(points[-1][1])}"


def _correlation(run: Run, first: str, second: str) -> float | None:
    points = run.curve(f"reward/{first}/corr/{second}") or run.curve(f"reward/{second}/corr/{first}")
    return fmean(value for _, value in points[-_LAST:]) if points else None


def _last(run: Run, metric: str, ending: str) -> str:
    points = run.curve(metric)[-_LAST:]
    if not points:
        return "-"
    mean = fmean(value for _, value in points)
    return f"{mean:.0%}" if ending.endswith("_frac") else number(mean)


# --------------------------------------------------------------------------------- alarms


def alarms(run: Run) -> list[Alarm]:
    """Return everything whose alarm was on at some step, the earliest first."""
    watched = [name.removeprefix("alarm/") for name in run.metric_names if name.startswith("alarm/")]
    on = {name: [step for step, value in run.curve(f"alarm/{name}") if value == 1.0] for name in watched}
    begun = sorted((steps[0], name) for name, steps in on.items() if steps)
    return [_alarm(run, name, on[name]) for _, name in begun]


def _alarm(run: Run, name: str, steps: Sequence[float]) -> Alarm:
    watched = WatchedMetric(name=name)
    many = (
        f"on in {len(steps)} steps, last in step {steps[-1]:g}" if len(steps) > 1 else "on in this step only"
    )
    rising, falling = (_trend(run, key, steps[0]) for key in (watched.total_name, name))
    return Alarm(
        name=f"{watched.key} on held-out prompts" if watched.is_held_out else watched.key,
        when=f"started at step {steps[0]:g}; {many}",
        why=f"trained total {rising}; {watched.key} {falling}, over {run.setting('alarm_window', '?')} steps",
        charts=[
            _chart(run, "trained total", watched.total, steps, 1),
            _chart(run, f"watched: {watched.key}", watched.metric, steps, 6),
        ],
    )


def _chart(run: Run, title: str, metric: str, steps: Sequence[float], colour: int) -> Chart:
    line = Series(name=title, points=run.curve(metric), colour=colour)
    return Chart(title=title, svg=line_chart([line], marked=steps), note="red: alarm on")


def _trend(run: Run, name: str, step: float) -> str:
    slope, t = (dict(run.curve(f"trend/{name}/{part}")).get(step) for part in ("per_step", "t"))
    return "?" if slope is None or t is None else f"{slope:+.2g} a step (t = {t:.1f})"


# --------------------------------------------------------------------------------- extremes


def extremes(run: Run) -> list[Extreme]:
    """Return every reward's best and worst chain of the first and of the newest recorded step."""
    return [extreme for name in components(run) if (extreme := _extreme(run, name))]


def _extreme(run: Run, name: str) -> Extreme | None:
    scored = [chain for chain in run.training if chain.score(name) is not None]
    if not scored:
        return None
    columns, texts = list[Column](), []
    for step in dict.fromkeys((scored[0].step, scored[-1].step)):
        ranked = rank([chain for chain in scored if chain.step == step], lambda chain: chain.score(name))
        for word, chain in (("best", ranked[-1]), ("worst", ranked[0])):
            title, value = f"{word}, step {step}", number(chain.score(name))
            notes = [value, f"total {number(chain.total)}"]
            columns += [answer_column(run, chain, title, notes), *truth_columns(run, chain)]
            texts.append((f"{title}: {value} · {chain.record['chain_id']}", mark_markup(chain.text)))
    return Extreme(name=name, is_measured_only=is_measured_only(run, name), columns=columns, texts=texts)
