"""Run directory: where everything of a run lies, and what makes a checkpoint whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from cluster.record.run_files import read_as
from cluster.runtime.files import flush_tree, warn_once, write_atomically
from rl.ahead import DataPosition
from rl.errors import ConfigError, DamagedFileError

CHECKPOINTS = "checkpoints"
STATE = "state.json"
"""Written last: a checkpoint without it is half-written and ignored."""


class State(TypedDict):
    """``state.json`` of a checkpoint."""

    step: int
    position: int
    again: NotRequired[list[int]]
    """Not there in older ones, where every drawn prompt was trained."""
    versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int
    """Steps done."""
    data: DataPosition
    versions: Mapping[str, int]
    """Weight version by policy."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """``<output_dir>/<name>`` and the names of what lies in it."""

    path: Path

    @property
    def metrics(self) -> Path:
        """One flat JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def timeline(self) -> Path:
        """What every worker did when (``cluster.record.timeline``)."""
        return self.path / "timeline.json"

    @property
    def status(self) -> Path:
        """What the run does now, refreshed each second (``cluster.record.observer``)."""
        return self.path / "status.json"

    @property
    def tracking(self) -> Path:
        """The run's trackers, where each keeps it, and what became of them (``cluster.record.trackers.base``)."""
        return self.path / "tracking.json"

    @property
    def evaluation(self) -> Path:
        """What held-out prompts were measured by (``rl.measure.statistics``)."""
        return self.path / "eval.json"

    @property
    def resolved(self) -> Path:
        """The configuration as it ran."""
        return self.path / "resolved.yaml"

    def check(self, *, resume: bool) -> None:
        """Refuse to write over another run.

        Raises:
            ConfigError: If a run lies there and ``resume`` is off, or the other way round.
        """
        if resume and not self.resolved.exists():
            raise ConfigError(f"resume=true, but there is no run in {self.path}; drop it or check name=")
        if not resume and self.resolved.exists():
            raise ConfigError(f"{self.path} holds a run already; choose another name= or say resume=true")

    def create(self, *, resolved_yaml: str) -> None:
        """Make the directory, or go on in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.resolved, resolved_yaml)

    def checkpoint_path(self, step: int) -> Path:
        """Return where the checkpoint of ``step`` steps belongs."""
        return self.path / CHECKPOINTS / f"step_{step:06d}"

    def checkpoints(self) -> list[Checkpoint]:
        """Return the whole checkpoints, oldest first; a damaged one is passed over with a warning."""
        whole = []
        for state in sorted((self.path / CHECKPOINTS).glob(f"step_*/{STATE}")):
            try:
                whole.append(_checkpoint(state.parent, read_as(state, State)))
            except DamagedFileError as error:
                warn_once(f"{error}; this checkpoint is passed over")
        return whole

    def newest_checkpoint(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, or None where there is none."""
        return next(reversed(self.checkpoints()), None)

    def begin_checkpoint(self, step: int) -> Path:
        """Return the empty place of a checkpoint: what an attempt that ended has left there is removed."""
        path = self.checkpoint_path(step)
        _remove_checkpoint(path)
        return path

    def finish_checkpoint(
        self, step: int, data: DataPosition, versions: Mapping[str, int], *, keep: int
    ) -> None:
        """Declare the checkpoint of ``step`` whole, once it is on the disk, and remove the oldest beyond ``keep``."""
        flush_tree(self.checkpoint_path(step))
        state: State = {
            "step": step,
            "position": data.position,
            "again": list(data.again),
            "versions": dict(versions),
        }
        write_atomically(self.checkpoint_path(step) / STATE, json.dumps(state))
        for old in self.checkpoints()[:-keep]:
            _remove_checkpoint(old.path)

    def remove_half_checkpoints(self) -> None:
        """Remove what is half-written."""
        for path in (self.path / CHECKPOINTS).glob("step_*"):
            if not (path / STATE).exists():
                _remove_checkpoint(path)


def _checkpoint(path: Path, state: State) -> Checkpoint:
    data = DataPosition(position=state["position"], again=tuple(state.get("again", ())))
    return Checkpoint(path=path, step=state["step"], data=data, versions=state["versions"])


def _remove_checkpoint(path: Path) -> None:
    """Remove first what makes it count: half a removal leaves nothing that looks whole."""
    (path / STATE).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
