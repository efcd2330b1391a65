"""Sinks of metrics: a JSONL file that is always written, a line a step on the terminal, and others.

All are ``rl.ports.Sink``. ``read_metrics`` is the one reader of the file.
"""

from __future__ import annotations

import json
import logging
import math
import numbers
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cluster.record.run_files import json_lines
from cluster.runtime.files import write_atomically
from rl.measure.hacking import alarms_on
from rl.ports import Sink
from rl.types import JsonDict, Metrics

logger = logging.getLogger(__name__)

STAGES = ("rollout", "reward", "update", "publish")
"""Stages whose ``time/<stage>_s`` make up a step."""


def read_metrics(path: Path) -> list[JsonDict]:
    """Return the records of a metrics file by step; lines of one step are merged.

    A line that is no record is left out, such as the half that a killed run leaves. No file, no records.
    """
    merged: dict[int, JsonDict] = {}
    for record in json_lines(path)[0]:
        if isinstance(record.get("step"), int):
            merged.setdefault(record["step"], {}).update(record)
    return [merged[step] for step in sorted(merged)]


class JsonlSink:
    """Appends one flat JSON object a step and flushes it to the disk.

    JSON has no NaN: a value that is not finite is written as null, with one warning a metric.
    """

    def __init__(self, path: Path) -> None:
        """Go on where the file ends: ``wall_time_s`` is counted over all attempts of a run."""
        self._path = path
        self._warned: set[str] = set()
        self._start = time.monotonic() - _last_wall_time(path)

    def log(self, step: int, metrics: Metrics) -> None:
        """Append ``step``, ``wall_time_s`` and the metrics.

        Raises:
            TypeError: If a value is not a number.
        """
        record: JsonDict = {"step": step, "wall_time_s": round(time.monotonic() - self._start, 3)}
        record |= {name: self._number(step, name, value) for name, value in metrics.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record, allow_nan=False) + "\n"
        with self._path.open("a+b") as file:
            file.seek(max(file.tell() - 1, 0))
            if file.read() not in (b"", b"\n"):  # half a line of a run that was killed
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def truncate_after(self, step: int) -> None:
        """Drop records later than ``step`` (they are past the checkpoint a run resumes from)."""
        if not self._path.exists():
            return
        kept = [record for record in read_metrics(self._path) if record["step"] <= step]
        write_atomically(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._start = time.monotonic() - _last_wall_time(self._path)

    def _number(self, step: int, name: str, value: object) -> float | int | None:
        if isinstance(value, numbers.Integral):
            return int(value)
        if not isinstance(value, numbers.Real):
            raise TypeError(f"metric {name} must be a number, got {type(value).__name__}")
        number = float(value)
        if math.isfinite(number):
            return number
        if name not in self._warned:
            self._warned.add(name)
            logger.warning("%s is %s at step %d: written as null (said once)", name, number, step)
        return None


class ConsoleSink:
    """Prints one readable line a step."""

    def __init__(self, console: Console, num_steps: int = 0) -> None:
        """Print to ``console``, counting towards ``num_steps`` where it is known."""
        self._console = console
        self._num_steps = num_steps

    def log(self, step: int, metrics: Metrics) -> None:
        """Print the step's rewards, the two early-warning lights and where the time went."""
        self._console.print(step_line(step, metrics, self._num_steps), soft_wrap=True)


class MultiSink:
    """Logs to several sinks; only the required ones may stop a run."""

    def __init__(self, required: Sequence[Sink], optional: Sequence[Sink] = ()) -> None:
        """Take sinks in the order in which they are called."""
        self._required = tuple(required)
        self._optional = list(optional)

    def log(self, step: int, metrics: Metrics) -> None:
        """Log everywhere; an optional sink that fails is reported once and left out from then on."""
        for sink in self._required:
            sink.log(step, metrics)
        for sink in tuple(self._optional):
            try:
                sink.log(step, metrics)
            except Exception:
                self._optional.remove(sink)
                logger.exception("%s failed at step %d and is switched off", type(sink).__name__, step)


def step_line(step: int, metrics: Mapping[str, float], num_steps: int = 0) -> Text:
    """Return the step as one line: rewards, ratio deviation, canary, seconds by stage."""
    counter = f"step {step:>3}" + (f"/{num_steps}" if num_steps else "")
    parts = [Text(counter, style="bold")]
    if (total := metrics.get("reward/total/mean")) is not None:
        parts.append(Text(f"reward {total:.3f}", style="bold green"))
    if rewards := _rewards(metrics):
        parts.append(Text(" ".join(f"{name} {value:.2f}" for name, value in rewards.items())))
    if alarms := alarms_on(metrics):
        parts.append(Text(f"alarm {' '.join(alarms)}", style="bold red"))
    for label, ending in (("ratio", "/ratio_before_update/max_dev"), ("canary", "/canary_nats/max")):
        values = [value for name, value in metrics.items() if name.endswith(ending)]
        if values:
            parts.append(Text(f"{label} ±{max(values):.0e}", style="dim"))
    if seconds := _seconds(metrics):
        parts.append(Text(seconds, style="cyan"))
    return Text("  ").join(parts)


def _rewards(metrics: Mapping[str, float]) -> dict[str, float]:
    named = {}
    for name, value in metrics.items():
        match name.split("/"):
            case ["reward", component, "mean"] if component != "total":
                named[component] = value
    return named


def _seconds(metrics: Mapping[str, float]) -> str:
    stages = {stage: metrics[f"time/{stage}_s"] for stage in STAGES if f"time/{stage}_s" in metrics}
    step = metrics.get("time/step_s", sum(stages.values()))
    if not stages:
        return f"{step:.1f} s" if step else ""
    return f"{step:.1f} s ({' '.join(f'{stage} {value:.1f}' for stage, value in stages.items())})"


def _last_wall_time(path: Path) -> float:
    times = [record.get("wall_time_s") for record in read_metrics(path)]
    return max((value for value in times if isinstance(value, int | float)), default=0.0)
