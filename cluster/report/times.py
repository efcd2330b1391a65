"""Times in a report: seconds a step by stage, the slowest step, and which workers waited."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.record.run_data import Run
from cluster.record.timeline import DRIVER, STEP, covered_frac, spans_of
from cluster.report.charts import Chart, Point, Series, stack_chart
from rl.spans import Span

_STAGES = {
    "rollout": ("rollout: text and pictures are sampled", 1),
    "collect": ("collect: rollout and reward", 1),
    "reward": ("reward: wait after the last chain", 2),
    "update": ("update: learners step", 3),
    "publish": ("publish: weights sent and proved", 5),
    "other": ("other", 8),
}
"""What each stage is, and its colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Where the time of a run went."""

    chart: Chart
    slowest: str
    """Number of the slowest step."""
    stages: Sequence[tuple[str, str, str, str]]
    """Stage, share of the run, seconds of a median step, seconds of the slowest."""
    waits: Sequence[tuple[str, int, float | None, float | None]]
    """Workers of one kind, how many, and the share of the time they waited: over all steps, and in the slowest. The
    longest waits come first; empty where there is no timeline."""


def times(run: Run) -> Times | None:
    """Account for the steps that were timed; None where none was."""
    stages = _stages(run)
    total = {int(step): value for step, value in run.curve("time/step_s")}
    if not stages:
        return None
    steps = sorted({int(step) for values in stages.values() for step in values})
    spent = {step: total.get(step, sum(v.get(step, 0.0) for v in stages.values())) for step in steps}
    slowest = max(steps, key=lambda step: spent[step])
    whole = sum(spent.values()) or 1.0
    layers, rows = [], []
    for stage, values in stages.items():
        points: list[Point] = [(step, values.get(step, 0.0)) for step in steps]
        seconds = [value for _, value in points]
        layers.append(Series(name=stage, points=points, colour=_STAGES[stage][1]))
        share, median = sum(seconds) / whole, statistics.median(seconds)
        rows.append((stage, f"{share:.0%}", f"{median:.2f}", f"{values.get(slowest, 0.0):.2f}"))
    rows.append(("step", "", f"{statistics.median(spent.values()):.2f}", f"{spent[slowest]:.2f}"))
    chart = Chart(
        title="Seconds a step, by stage", svg=stack_chart(layers), legend=tuple(_STAGES[s] for s in stages)
    )
    return Times(chart=chart, slowest=str(slowest), stages=rows, waits=_waits(run, slowest))


def _stages(run: Run) -> dict[str, dict[float, float]]:
    """Return seconds by stage and step; what no stage accounts for is ``other``."""
    stages = {stage: dict(run.curve(f"time/{stage}_s")) for stage in _STAGES}
    if stages["rollout"]:
        stages["collect"] = {}
    for step, whole in run.curve("time/step_s"):
        known = sum(values.get(step, 0.0) for values in stages.values())
        stages["other"][step] = max(whole - known, 0.0)
    return {stage: values for stage, values in stages.items() if values}


def _waits(run: Run, slowest: int) -> list[tuple[str, int, float | None, float | None]]:
    """Return who waited, from the timeline: [] where it has no step."""
    by_worker = spans_of(run.events)
    numbered = [(span.details.get(STEP), span) for span in by_worker.get(DRIVER, ()) if span.name == STEP]
    steps = {number: span for number, span in numbered if isinstance(number, int)}
    if not steps:
        return []
    first, last = min(s.begin_s for s in steps.values()), max(s.end_s for s in steps.values())
    whole = Span(name="steps", begin_s=first, seconds=last - first)
    kinds: dict[str, list[Sequence[Span]]] = {}
    for worker, spans in sorted(by_worker.items()):
        if worker != DRIVER:
            kinds.setdefault(re.sub(r"-\d+$", "", worker), []).append(spans)
    rows = [
        (kind, len(workers), waited(whole, workers), waited(steps.get(slowest), workers))
        for kind, workers in kinds.items()
    ]
    return sorted(rows, key=lambda row: -(row[2] or 0.0))


def waited(within: Span | None, workers: Sequence[Sequence[Span]]) -> float | None:
    """Return the share of a span's time in which workers did nothing, 0..1, on average; None without the span."""
    if within is None:
        return None
    return 1.0 - sum(covered_frac(within, spans) for spans in workers) / len(workers)
