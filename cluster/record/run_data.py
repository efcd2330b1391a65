"""Content of a run directory, read for its report.

Everything may be absent: a run that was killed, or one that has just begun, is reported as far as it got. What is
damaged is left out and named.
"""

from __future__ import annotations

import base64
import io
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from PIL import Image

from cluster.record.recorder import picture_file, read_record
from cluster.record.run_files import TrackerNote, json_lines, read_evaluation, read_notes
from cluster.record.rundir import RunDir
from cluster.record.sinks import read_metrics
from cluster.record.timeline import read_timeline
from configs.errors import first_line
from rl.errors import DamagedFileError
from rl.types import JsonDict

T = TypeVar("T")
_LARGEST_EDGE = 384
"""Larger pictures are scaled down for the report."""
_LOSSLESS_EDGE = 160
"""Pictures up to this size are embedded as they are, and shown with crisp pixels."""


@dataclass(frozen=True)
class RecordedChain:
    """One chain as ``cluster.record.recorder`` wrote it."""

    folder: Path
    record: JsonDict

    @property
    def step(self) -> int:
        """Return the step it was written at."""
        return int(self.record["step"])

    @property
    def total(self) -> float | None:
        """Return its combined reward, where it has one."""
        value = self.record.get("total")
        return None if value is None else float(value)

    def score(self, name: str) -> float | None:
        """Return its value of a reward, where it has one."""
        value = self.record["rewards"].get(name)
        return None if value is None else float(value)

    @property
    def prompt_id(self) -> str:
        """Return the id of the prompt it answers."""
        return str(self.record["prompt"]["prompt_id"])

    @property
    def shown(self) -> list[str]:
        """Return the names of the prompt's pictures that the policies saw."""
        return list(self.record["prompt"]["shown"])

    @property
    def hidden(self) -> list[str]:
        """Return the names of the prompt's other pictures, for rewards and metrics."""
        return [name for name in self.record["prompt"]["pictures"] if name not in self.shown]

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Return role and text of what was asked."""
        messages = self.record["prompt"].get("messages", [])
        return [
            (message["role"], " ".join(part["text"] for part in message["content"] if "text" in part))
            for message in messages
        ]

    @property
    def text(self) -> str:
        """Return everything it wrote."""
        return str(self.record["text"])

    @property
    def paints(self) -> bool:
        """Return whether its policies paint; a record of before formats were numbered names no last block, and did."""
        return bool(self.record.get("final_block", True) or self.record["pictures"])

    @property
    def references(self) -> JsonDict:
        """Return what the prompt knows of the answer, by name."""
        return dict(self.record["prompt"]["reference"])

    def words(self, name: str) -> list[str]:
        """Return a reference value that is a list of words; [] for any other."""
        value = self.references.get(name)
        return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []

    def has(self, name: str) -> bool:
        """Return whether it has that picture."""
        return (self.folder / picture_file(name)).is_file()

    def open(self, name: str) -> Image.Image:
        """Return a picture as RGB.

        Raises:
            DamagedFileError: If it cannot be read.
        """
        path = self.folder / picture_file(name)
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        # What Pillow raises for files that are cut or changed, by where it notices.
        except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
            raise DamagedFileError(f"{path}: damaged: {first_line(error)}") from error


@dataclass(frozen=True)
class Run:
    """A run directory in memory, without pixels."""

    path: Path
    metrics: list[JsonDict]
    chains: list[RecordedChain]
    evaluation: JsonDict
    """``eval.json``."""
    config_text: str
    config: JsonDict = field(default_factory=dict)
    """The configuration as it ran; {} where there is none."""
    trackers: Mapping[str, TrackerNote] = field(default_factory=dict)
    """What has become of each tracker."""
    events: Sequence[JsonDict] = ()
    """The timeline's."""
    damaged: list[str] = field(default_factory=list)
    """A line for everything that cannot be read; pictures join as they are opened."""

    def setting(self, key: str, default: Any = None) -> Any:
        """Return the value of a dotted key, or ``default``."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def number(self, key: str) -> float | None:
        """Return the value of a dotted key, or None where it is no number."""
        value = self.setting(key)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    def picture(self, chain: RecordedChain, name: str) -> Image.Image | None:
        """Return a recorded picture; None where there is none, or it cannot be read (which is noted)."""
        if not chain.has(name):
            return None
        try:
            return chain.open(name)
        except DamagedFileError as error:
            self.damaged.append(str(error))
            return None

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """Return (step, value) wherever the metric is a finite number."""
        values = ((record["step"], record.get(metric)) for record in self.metrics)
        return [
            (float(step), float(value))
            for step, value in values
            if isinstance(value, int | float) and math.isfinite(value)
        ]

    @cached_property
    def metric_names(self) -> list[str]:
        """Return every metric that was logged, in order of first appearance."""
        return list(dict.fromkeys(name for record in self.metrics for name in record))

    @cached_property
    def training(self) -> list[RecordedChain]:
        """Return the recorded training chains, by step and name."""
        return [chain for chain in self.chains if chain.record.get("kind") == "train"]


def load_run(run_dir: Path) -> Run:
    """Read what is there.

    Args:
        run_dir: ``<output_dir>/<name>``.

    Raises:
        FileNotFoundError: If there is no such directory.
    """
    if not run_dir.is_dir():
        raise FileNotFoundError(f"there is no run directory {run_dir}")
    run, damaged = RunDir(run_dir), list[str]()

    def read(path: Path, reader: Callable[[Path], T], default: T) -> T:
        try:
            return reader(path) if path.exists() else default
        except DamagedFileError as error:
            damaged.append(str(error))
            return default

    for path in (run.metrics, run.timeline):
        if num := json_lines(path)[1]:
            damaged.append(f"{path}: {num} of its lines cannot be read")
    chains = [read(path, read_chain, None) for path in sorted(run_dir.glob("chains/step_*/*/chain.json"))]
    config_text, config = read(run.resolved, _read_config, ("", dict[str, Any]()))
    return Run(
        path=run_dir,
        metrics=read_metrics(run.metrics),
        chains=[chain for chain in chains if chain is not None],
        evaluation=read(run.evaluation, read_evaluation, {}),
        config_text=config_text,
        config=config,
        trackers=read(run.tracking, read_notes, {}),
        events=read_timeline(run.timeline),
        damaged=damaged,
    )


def read_chain(path: Path) -> RecordedChain:
    """Read a ``chain.json``.

    Raises:
        DamagedFileError: If it is damaged.
    """
    return RecordedChain(path.parent, read_record(path.parent))


def _read_config(path: Path) -> tuple[str, JsonDict]:
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DamagedFileError(f"{path}: damaged: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise DamagedFileError(f"{path}: damaged: holds no keys")
    return text, config


def picture_names(chain: RecordedChain) -> list[str]:
    """Return a chain's own pictures, coarse to fine (the order in which its text opens them)."""
    text = chain.record["text"]
    return sorted(chain.record["pictures"], key=lambda name: text.find(f"<{name}>"))


def data_uri(image: Image.Image) -> str:
    """Return a picture to embed: small ones as they are, large ones smaller and as JPEG."""
    buffer = io.BytesIO()
    if max(image.size) <= _LOSSLESS_EDGE:
        image.save(buffer, "PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    small = image.copy()
    small.thumbnail((_LARGEST_EDGE, _LARGEST_EDGE), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
