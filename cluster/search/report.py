"""Report of a search: a table, its numbers as JSON, and a page with the parallel-coordinates picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cluster.record.tables import LOWER_IS_BETTER
from cluster.report.charts import standalone
from cluster.report.page import render
from cluster.runtime.files import write_atomically
from cluster.search.picture import parallel_coordinates
from cluster.search.trials import State, Trial, show
from configs.search import SearchPlan

PICTURE, PAGE, NUMBERS = "parallel.svg", "search.html", "search.json"
_STYLES: dict[State, str] = {"finished": "green", "stopped": "dim", "failed": "red", "running": "cyan"}


def show_metric(value: float | None) -> str:
    """Write a measurement; ``-`` where there is none."""
    return "-" if value is None else f"{value:.4f}"


def ranked(plan: SearchPlan, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that went to their end, best first; then the stopped, then those without a result."""
    sign = -1.0 if plan.settings.metric in LOWER_IS_BETTER else 1.0
    order: dict[State, int] = {"finished": 0, "stopped": 1, "running": 2, "failed": 3}
    return sorted(
        trials,
        key=lambda t: (order[t.state], -t.step, -sign * t.last if t.last is not None else 0.0, t.number),
    )


def _cells(plan: SearchPlan, trial: Trial) -> list[str]:
    """Return what a trial tried, how far it came and what it reached."""
    return [*(show(trial.values[key]) for key in plan.space), str(trial.step), show_metric(trial.last)]


def search_table(plan: SearchPlan, trials: Sequence[Trial], best: Trial | None) -> Table:
    """Return the table for a terminal."""
    metric = plan.settings.metric
    arrow = "↓" if metric in LOWER_IS_BETTER else "↑"
    table = Table(title=f"{len(trials)} trials by held-out {metric}", title_justify="left")
    table.add_column("trial")
    for key in plan.space:
        table.add_column("\n".join(key.rsplit(".", 1)), justify="right", overflow="fold")
    table.add_column("steps", justify="right")
    table.add_column(f"{metric} {arrow}", justify="right")
    table.add_column("state")
    for trial in ranked(plan, trials):
        is_best = best is not None and trial.number == best.number
        table.add_row(
            f"{trial.name} *" if is_best else trial.name,
            *_cells(plan, trial),
            Text(trial.ending, style=_STYLES[trial.state]),
            style="bold" if is_best else "",
        )
    return table


def trial_line(plan: SearchPlan, trial: Trial) -> Text:
    """Return the line that says how a trial ended."""
    tried = " ".join(f"{key}={show(value)}" for key, value in trial.values.items())
    return Text("  ").join(
        [
            Text(trial.name, style="bold"),
            Text(f"{plan.settings.metric} {show_metric(trial.last)}"),
            Text(f"after {trial.step} steps"),
            Text(trial.ending, style=_STYLES[trial.state]),
            Text(tried, style="dim"),
        ]
    )


def write_search_report(plan: SearchPlan, trials: Sequence[Trial], best: Trial, folder: Path) -> Path:
    """Write ``search.json``, ``parallel.svg`` and ``search.html``, which needs no network; return the page."""
    rows = ranked(plan, trials)
    numbers = {
        "metric": plan.settings.metric,
        "best": best.name,
        "trials": [asdict(trial) | {"name": trial.name, "last": trial.last} for trial in rows],
    }
    write_atomically(folder / NUMBERS, json.dumps(numbers, indent=1))
    picture = parallel_coordinates(plan, rows, best)
    write_atomically(folder / PICTURE, standalone(picture, css=render("report.css")))
    page = render(
        PAGE,
        name=folder.name,
        metric=plan.settings.metric,
        keys=list(plan.space),
        rows=[(trial, _cells(plan, trial)) for trial in rows],
        best=best,
        picture=picture,
    )
    write_atomically(folder / PAGE, page)
    return folder / PAGE
