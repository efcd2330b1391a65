"""What a report is made of, read from the run directory.

Everything may be absent: a run that was killed, or one that has just begun, is reported as far as it got.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from cluster.record.recorder import picture_file, read_record
from cluster.record.sinks import read_metrics
from rl.types import JsonDict

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
        """Return the names of the prompt's other pictures, for rewards and judges."""
        return [name for name in self.record["prompt"]["pictures"] if name not in self.shown]

    def reference(self, name: str) -> Any:
        """Return what the prompt knows of the answer under a name, or None."""
        return self.record["prompt"]["reference"].get(name)

    def has(self, name: str) -> bool:
        """Return whether it has that picture."""
        return (self.folder / picture_file(name)).is_file()

    def open(self, name: str) -> Image.Image:
        """Return a picture as RGB."""
        with Image.open(self.folder / picture_file(name)) as image:
            return image.convert("RGB")


@dataclass(frozen=True)
class Run:
    """A run directory in memory, without pixels."""

    path: Path
    metrics: list[JsonDict]
    chains: list[RecordedChain]
    evaluation: JsonDict
    config_text: str

    @cached_property
    def config(self) -> JsonDict:
        """Return the configuration as it ran; {} where there is none."""
        loaded = yaml.safe_load(self.config_text)
        return loaded if isinstance(loaded, dict) else {}

    def setting(self, key: str, default: Any = None) -> Any:
        """Return the value of a dotted key, or ``default``."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """Return (step, value) wherever the metric is a number."""
        found = ((record["step"], record.get(metric)) for record in self.metrics)
        return [(float(step), float(value)) for step, value in found if isinstance(value, int | float)]

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
    resolved = run_dir / "resolved.yaml"
    return Run(
        path=run_dir,
        metrics=read_metrics(run_dir / "metrics.jsonl"),
        chains=[
            RecordedChain(path.parent, read_record(path.parent))
            for path in sorted(run_dir.glob("chains/step_*/*/chain.json"))
        ],
        evaluation=_evaluation(run_dir / "eval.json"),
        config_text=resolved.read_text(encoding="utf-8") if resolved.exists() else "",
    )


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


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return sum(values) / len(values)


def _evaluation(path: Path) -> JsonDict:
    if not path.exists():
        return {}
    loaded = json.loads(path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}
