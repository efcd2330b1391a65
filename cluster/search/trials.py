"""Trial records of a search on disk: what each was given, how far it came and how it ended.

These records are the truth of a search, and are all that it resumes from: a trial's is written before it
starts, at each of its evaluations, and when it ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cluster.record.run_files import read_as
from cluster.runtime.files import warn_once, write_atomically
from rl.errors import DamagedFileError

State = Literal["running", "finished", "stopped", "failed"]
TRIALS = "trials"
"""Folder of the trials in a search's directory; each is a whole run directory."""
RECORD = "trial.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial of a search."""

    number: int
    values: Mapping[str, Any]
    """What it tries, by key."""
    state: State = "running"
    """``running`` also where the search was killed; ``stopped`` is by ASHA, and final."""
    metric: Mapping[int, float | None] = field(default_factory=dict)
    """Held-out mean by GRPO steps done; None where it was not to be had."""
    error: str = ""
    """Why it failed, one line."""

    @property
    def name(self) -> str:
        """Name of its run."""
        return trial_name(self.number)

    @property
    def step(self) -> int:
        """GRPO steps it was last evaluated after."""
        return max(self.metric, default=0)

    @property
    def ending(self) -> str:
        """How it ended, with its error."""
        return f"{self.state}: {self.error}" if self.error else self.state

    @property
    def last(self) -> float | None:
        """Its newest measurement; None where there is none."""
        return self.metric.get(self.step)


def trial_name(number: int) -> str:
    """Return the name of a trial's run."""
    return f"trial-{number:03d}"


@dataclass(frozen=True, slots=True)
class TrialBook:
    """Reads and writes the records below a search's directory."""

    folder: Path
    """``<search>/trials``."""

    def path(self, number: int) -> Path:
        """Return a trial's run directory."""
        return self.folder / trial_name(number)

    def write(self, trial: Trial) -> Trial:
        """Write a record; no reader sees half of it."""
        self.path(trial.number).mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(trial.number) / RECORD, json.dumps(asdict(trial), indent=1))
        return trial

    def read(self, number: int) -> Trial:
        """Read a record.

        Raises:
            DamagedFileError: If it is damaged.
        """
        return read_as(self.path(number) / RECORD, Trial)

    def folders(self) -> list[Path]:
        """Return the trials' run directories by number."""
        return sorted(file.parent for file in self.folder.glob(f"trial-*/{RECORD}"))

    @property
    def num_known(self) -> int:
        """Numbers that were given to trials, damaged ones too."""
        return max((_number(folder) + 1 for folder in self.folders()), default=0)

    def all(self) -> list[Trial]:
        """Return every trial by number; one whose record is damaged is left out, and said to be."""
        trials = []
        for number in sorted(_number(folder) for folder in self.folders()):
            try:
                trials.append(self.read(number))
            except DamagedFileError as error:
                warn_once(f"{error}; this trial is left out")
        return trials

    def measured(self, number: int, step: int, value: float | None) -> Trial:
        """Add a measurement."""
        trial = self.read(number)
        finite = value if value is not None and math.isfinite(value) else None
        return self.write(replace(trial, metric={**trial.metric, step: finite}))

    def end(self, number: int, state: State, error: str = "") -> Trial:
        """Write down how a trial ended, the first time it is said."""
        trial = self.read(number)
        if trial.state != "running":
            return trial
        return self.write(replace(trial, state=state, error=error))


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("trial-"))


def show(value: Any) -> str:
    """Write a value that was tried, short."""
    if isinstance(value, Mapping):
        named = [str(value["kind"])] if "kind" in value else []
        return " ".join([*named, *(f"{key}={show(entry)}" for key, entry in value.items() if key != "kind")])
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def best_trial(trials: list[Trial], *, sign: float) -> Trial | None:
    """Return the best of those that went to their end, or of the stopped where none did.

    Args:
        trials: All of them; what failed cannot win.
        sign: -1 where less is better.
    """
    for state in ("finished", "stopped"):
        fit = [
            (sign * trial.last, -trial.number, trial)
            for trial in trials
            if trial.state == state and trial.last is not None
        ]
        if fit:
            return max(fit, key=lambda row: row[:2])[2]
    return None
