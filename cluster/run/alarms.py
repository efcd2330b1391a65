"""Alarms of a run while it lasts: added to what is logged, said when one starts, and the end of the run if asked.

What it knows of past steps are the records of ``metrics.jsonl``, so a resumed run goes on with the same window.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.record.rundir import RunDir
from cluster.record.sinks import read_metrics
from cluster.runtime.calls import Worker, gather
from configs.schema import Config
from rl.errors import AlarmError
from rl.measure.hacking import WatchedMetric, alarm_metrics, alarms_on, describe, started, watched_of
from rl.measure.statistics import NOW
from rl.ports import Sink
from rl.types import JsonDict, Metrics

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class AlarmWatch:
    """A sink in front of the run's sinks."""

    config: Config
    watched: Sequence[WatchedMetric]
    steps: Sink
    """Takes the metrics of steps."""
    evaluations: Sink
    """Takes held-out metrics, as a further line of the step that made the weights."""
    records: list[JsonDict] = field(default_factory=list)
    """Past steps, no more of them than trends need."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the metrics of a step with the alarms they set off."""
        self.steps.log(step, metrics | self._watch(step, metrics))

    def evaluated(self, step: int, summary: JsonDict) -> None:
        """Log the held-out means of a finished step with the alarms they set off.

        Args:
            step: As in ``log``: the step whose weights were evaluated.
            summary: The content of ``eval.json``.
        """
        cells = summary["rows"].get(NOW, {})
        metrics = {f"eval/{key}/mean": cell["mean"] for key, cell in cells.items()}
        self.evaluations.log(step, metrics | self._watch(step, metrics))

    @property
    def alarms(self) -> tuple[str, ...]:
        """Names of what has its alarm on now."""
        return alarms_on(self.records[-1]) if self.records else ()

    @property
    def must_stop(self) -> bool:
        """Whether an alarm is on that ends the run."""
        return self.config.on_alarm == "stop" and bool(self.alarms)

    def stop(self) -> None:
        """End the run where it must stop.

        Raises:
            AlarmError: Names what fell, and how to go on all the same.
        """
        if self.must_stop:
            newest = self.records[-1]
            why = "; ".join(describe(name, newest) for name in self.alarms)
            raise AlarmError(
                f"stopped by an alarm after step {newest['step']}: {why}; the checkpoint is saved, look at the report, "
                "and go on with resume=true on_alarm=log if it is nothing"
            )

    def _watch(self, step: int, metrics: Metrics) -> Metrics:
        """Remember the metrics, test the trends, and say what starts."""
        window = self.config.alarm_window
        if not window or not self.watched:
            return {}
        if not self.records or self.records[-1]["step"] != step:
            self.records.append({"step": step})
        self.records[-1] |= metrics
        since = step - window
        self.records[:] = [record for record in self.records if record["step"] >= since]
        before = set(self.alarms)
        trends = alarm_metrics(self.records, self.watched, window)
        self.records[-1] |= trends
        for name in started(self.records, window):
            if name not in before:
                what = describe(name, self.records[-1])
                logger.warning("alarm at step %d: %s, over %d steps", step, what, window)
        return trends


def alarm_watch(
    config: Config, picture_metrics: Worker | None, run: RunDir, *, steps: Sink, evaluations: Sink
) -> AlarmWatch:
    """Set up the watch of a run, with the steps that it has done already.

    Args:
        config: The run.
        picture_metrics: Serves ``rewards.experts.picture_metrics.PictureMetrics``, which know the direction of each
            held-out metric; None where there is none.
        run: Its directory.
        steps: See ``AlarmWatch``.
        evaluations: See ``AlarmWatch``.
    """
    lower_better: dict[str, bool] = {}
    if picture_metrics is not None:
        (lower_better,) = gather([picture_metrics.call("lower_better")], deadline_s=config.deadline_s)
    return AlarmWatch(
        config=config,
        watched=watched_of(config, lower_better),
        steps=steps,
        evaluations=evaluations,
        records=read_metrics(run.metrics),
    )
