"""Page of a report, ``report.html``: one file about a run that opens offline and asks the network for nothing.

Reads the run directory only (also one of a killed or running run); numbers come from where they were logged.
"""

from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from cluster.record import tables
from cluster.record.run_data import Run, load_run
from cluster.report import rewards as by_reward
from cluster.report.chains import chain_cards, group_strip, held_out_strips
from cluster.report.charts import Chart, Series, line_chart
from cluster.report.times import times
from cluster.runtime.console import duration
from cluster.runtime.files import write_atomically
from configs.errors import first_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number to read first."""

    label: str
    value: str
    note: str = ""
    mood: str = ""
    """``better``, ``worse`` or ''."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One policy metric worth a chart; metrics are ``<component>/<policy>/<ending>``."""

    title: str
    note: str
    endings: tuple[str, ...]
    """Metrics that are added up."""
    is_log: bool = False
    limit: tuple[str, ...] = ()
    """Metric of a bound to draw."""


_AGREE = "largest |ratio - 1|: learner and rollout worker compute the same"
_GAP = "largest log-prob gap with the new weights, nats; dashed: tolerance"
_TOLERANCE = ("canary_nats/tolerance",)
_HEALTH = (
    Quantity("Ratio before the update", _AGREE, ("ratio_before_update/max_dev",), is_log=True),
    Quantity("Canary after publishing", _GAP, ("canary_nats/max",), is_log=True, limit=_TOLERANCE),
    Quantity("Entropy", "of the sampling distribution, nats", ("entropy_nats/mean",)),
    Quantity("Clipped actions", "share whose gradient a bound cut", ("clip_frac_low", "clip_frac_high")),
    Quantity("KL to the reference", "nats, estimated as kl_estimator says", ("ref_kl_nats/mean",)),
    Quantity("KL to the behaviour", "k3 estimate, nats", ("behaviour_kl_nats/mean",)),
    Quantity("Gradient norm", "before it is scaled down", ("grad_norm",), is_log=True),
    Quantity("Staleness", "weight versions; 0 is on-policy", ("staleness/max",)),
)


def write_report(run_dir: Path | str) -> Path:
    """Write the report of a run, whole or partial.

    Args:
        run_dir: ``<output_dir>/<name>``.

    Returns:
        ``<run_dir>/report.html``.

    Raises:
        FileNotFoundError: If there is no such directory.
    """
    run = load_run(Path(run_dir))
    content = _content(run)
    if damaged := list(dict.fromkeys(run.damaged)):
        more = f" (and {len(damaged) - 1} more, named in the report)" if len(damaged) > 1 else ""
        logger.warning("left out of the report: %s%s", damaged[0], more)
    path = run.path / "report.html"
    write_atomically(path, render("report.html", **content, damaged=damaged))
    return path


def report_line(run_dir: Path) -> str:
    """Write the report at the end of a run, which it never fails: say where it lies, or why there is none."""
    try:
        return f"report: {write_report(run_dir)}"
    except Exception as error:
        logger.exception("no report; the run itself is whole")
        return f"no report: {first_line(error)}; vlcot report {run_dir} tries again"


def render(template: str, **content: Any) -> str:
    """Fill in one of ``templates/``; what is not markup is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = tables.number
    return environment.get_template(template).render(content)


def _content(run: Run) -> dict[str, Any]:
    return {
        "name": str(run.setting("name") or run.path.name),
        "status": _status(run),
        "tiles": _tiles(run),
        "tables": tables.eval_tables(run.evaluation),
        "legend": tables.LEGEND,
        "strips": held_out_strips(run),
        "alarms": by_reward.alarms(run),
        "rewards": by_reward.reward_charts(run),
        "held_out": by_reward.held_out_charts(run),
        "shares": by_reward.share_charts(run),
        "component_columns": [heading for heading, _ in by_reward.COLUMNS],
        "components": by_reward.component_rows(run),
        "correlations": by_reward.correlation_rows(run),
        "extremes": by_reward.extremes(run),
        "cards": chain_cards(run),
        "group": group_strip(run),
        "health": _health_charts(run),
        "times": times(run),
        "faults": _tracker_faults(run),
        "config": run.config_text,
    }


def _status(run: Run) -> str:
    done, planned = len(run.metrics), run.number("num_steps")
    if not done:
        return "no step finished yet"
    if planned is None or done >= planned:
        return f"finished, {done} steps"
    return f"{done} of {planned:g} steps so far"


def _tiles(run: Run) -> list[Tile]:
    tiles = []
    if total := run.curve("reward/total/mean"):
        values = [value for _, value in total]
        few = max(min(5, len(values) // 2), 1)
        before, after = statistics.fmean(values[:few]), statistics.fmean(values[-few:])
        note = f"mean of the first and the last {few} steps" if few > 1 else "first and last step"
        tiles.append(Tile(label="Training reward", value=f"{before:.2f} → {after:.2f}", note=note))
    greedy = tables.eval_tables(run.evaluation)[:1]
    for row in (row for table in greedy for row in table.rows):
        if row.metric in {"total", "psnr"} and row.difference != "-":
            unit = " dB" if row.metric == "psnr" else ""
            note = f"now against start, 95 % {row.interval}"
            label = "Held-out reward" if row.is_reward else "Held-out PSNR"
            mood = "" if row.verdict == "open" else row.verdict
            tiles.append(Tile(label=label, value=row.difference + unit, note=note, mood=mood))
    if seconds := [value for _, value in run.curve("time/step_s")]:
        wall = max((value for _, value in run.curve("wall_time_s")), default=sum(seconds))
        median = f"median {statistics.median(seconds):.1f} s a step"
        tiles.append(Tile(label="Time", value=duration(wall), note=median))
    prompts, size = run.number("prompts_per_step"), run.number("group_size")
    if prompts and size and run.metrics:
        note = f"{prompts:g} prompts x {size:g} a step"
        tiles.append(
            Tile(label="Chains trained", value=f"{prompts * size * len(run.metrics):,.0f}", note=note)
        )
    return tiles


def _health_charts(run: Run) -> list[Chart]:
    policies = _policies(run)
    charts = []
    for quantity in _HEALTH:
        lines = [
            Series(name=policy, points=points, colour=colour)
            for colour, policy in enumerate(policies, start=1)
            if (points := _sum_curve(run, policy, quantity.endings))
        ]
        if not lines:
            continue
        bounds = [value for policy in policies for _, value in _sum_curve(run, policy, quantity.limit)]
        limit = max(bounds, default=None)
        charts.append(
            Chart(
                title=quantity.title,
                svg=line_chart(lines, is_log=quantity.is_log, limit=limit),
                note=quantity.note,
                legend=tuple((line.name, line.colour) for line in lines),
            )
        )
    return charts


def _policies(run: Run) -> list[str]:
    """Return the policies' names: in the configuration's order, or those that were measured."""
    configured = run.setting("policies")
    measured = sorted({name.split("/")[1] for name in run.metric_names if name.startswith("policy/")})
    return list(configured) if isinstance(configured, dict) else measured


def _sum_curve(run: Run, policy: str, endings: tuple[str, ...]) -> list[tuple[float, float]]:
    total: dict[float, float] = {}
    for name in run.metric_names:
        if any(name.endswith(f"/{policy}/{ending}") for ending in endings):
            for step, value in run.curve(name):
                total[step] = total.get(step, 0.0) + value
    return sorted(total.items())


def _tracker_faults(run: Run) -> list[str]:
    """Return a line for every tracker that failed."""
    return [
        f"Tracker {name} failed at {note.get('at', '?')} and was left out from there on: {note.get('reason', '?')}"
        for name, note in run.trackers.items()
        if note["state"] == "failed"
    ]
