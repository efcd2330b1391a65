"""Alarms in a report: which judge fell while the trained total rose, when, and both curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.record.run_data import Run
from cluster.report.charts import Chart, Series, line_chart
from rl.measure.hacking import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One judge that set off an alarm."""

    judge: str
    when: str
    why: str
    charts: Sequence[Chart]


def alarms(run: Run) -> list[Alarm]:
    """Return every judge whose alarm was on at some step, the earliest first."""
    begun = []
    for metric in run.metric_names:
        if not metric.startswith("alarm/"):
            continue
        steps = [step for step, value in run.curve(metric) if value == 1.0]
        if steps:
            begun.append((steps[0], _alarm(run, metric.removeprefix("alarm/"), steps)))
    return [alarm for _, alarm in sorted(begun, key=lambda item: (item[0], item[1].judge))]


def _alarm(run: Run, name: str, steps: Sequence[float]) -> Alarm:
    judge = Judge(name=name)
    many = (
        f"on in {len(steps)} steps, last in step {steps[-1]:g}" if len(steps) > 1 else "on in this step only"
    )
    rising, falling = (_trend(run, key, steps[0]) for key in (judge.total_name, name))
    return Alarm(
        judge=f"{judge.key} on held-out prompts" if judge.is_held_out else judge.key,
        when=f"started at step {steps[0]:g}; {many}",
        why=f"trained total {rising}; {judge.key} {falling}, over {run.setting('alarm_window', '?')} steps",
        charts=[
            _chart(run, "trained total", judge.total, steps, 1),
            _chart(run, f"judge: {judge.key}", judge.metric, steps, 6),
        ],
    )


def _chart(run: Run, title: str, metric: str, steps: Sequence[float], colour: int) -> Chart:
    line = Series(name=title, points=run.curve(metric), colour=colour)
    return Chart(title=title, svg=line_chart([line], marked=steps), note="red: alarm on")


def _trend(run: Run, name: str, step: float) -> str:
    slope, t = (dict(run.curve(f"trend/{name}/{part}")).get(step) for part in ("per_step", "t"))
    return "?" if slope is None or t is None else f"{slope:+.2g} a step (t = {t:.1f})"
