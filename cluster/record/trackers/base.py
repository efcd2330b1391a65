"""Trackers: TensorBoard, Weights & Biases, MLflow and the user's own, beside the metrics file that is always written.

Each tracker works in a thread of its own, so a slow one costs no step time. One that fails is reported once, on the
terminal and in the report, and left out from then on; the run and the other trackers go on. At the end what waits is
worked off within ``CLOSE_S``.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster.record.code_version import CodeVersion, code_version
from cluster.record.recorder import RECORD
from cluster.record.run_data import RecordedChain, read_chain
from cluster.record.run_files import TrackerNote, read_notes
from cluster.record.rundir import RunDir
from cluster.runtime.files import write_atomically
from configs.load import to_yaml
from configs.schema import Config
from rl.errors import ConfigError, DamagedFileError
from rl.targets import load_target
from rl.types import JsonDict, Metrics

logger = logging.getLogger(__name__)

CLOSE_S = 120.0
"""Longest wait for a tracker at the end of a run: uploads take their time, a dead server must not hold a run."""
OURS = {
    "tensorboard": "cluster.record.trackers.tensorboard:TensorBoardTracker",
    "wandb": "cluster.record.trackers.wandb:WandbTracker",
    "mlflow": "cluster.record.trackers.mlflow:MlflowTracker",
}
Outcome = Literal["finished", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a tracker is told of the run when it begins."""

    name: str
    run_dir: Path
    """A tracker that keeps local files keeps them in here."""
    config: JsonDict
    """Every key as it runs, nested."""
    code: CodeVersion
    first_step: int
    """Steps done before; 0 in a new run. Later steps that are in the tracker already are done again."""
    num_steps: int


class Tracker(ABC):
    """Takes what a run logs. Its methods are called one at a time, from one thread that is its own.

    The constructor takes no arguments and does nothing heavy. An error raised anywhere switches the tracker off.
    """

    def check(self) -> None:  # noqa: B027 - most have nothing to check
        """Refuse what cannot work, before anything starts, by a ``ConfigError`` of one line."""

    @abstractmethod
    def begin(self, run: RunFacts, kept: JsonDict) -> JsonDict:
        """Open the run, or go on with it.

        Args:
            run: The run.
            kept: What ``begin`` returned in an earlier attempt of the run; empty in the first.

        Returns:
            What a resumed run needs to go on in the same place, e.g. a run id; plain JSON. ``url`` is shown.
        """

    @abstractmethod
    def log(self, step: int, metrics: Metrics) -> None:
        """Take a step's scalars. A step may come twice: its held-out means come after its metrics."""

    @abstractmethod
    def chains(self, step: int, chains: Sequence[RecordedChain]) -> None:
        """Take the recorded chains of a step, with text, rewards and pictures (files of the run directory)."""

    @abstractmethod
    def end(self, outcome: Outcome) -> None:
        """Write out everything and close."""


# --------------------------------------------------------------------------------- one tracker's thread


class TrackerThread:
    """Works for one tracker; nothing here waits for it but ``close``."""

    def __init__(self, name: str, tracker: Tracker, note: Callable[[str, JsonDict], None]) -> None:
        """Start the thread.

        Args:
            name: As in the config.
            tracker: Not begun yet.
            note: Takes the name and what has become of the tracker, to be kept with the run.
        """
        self._name, self._tracker, self._note = name, tracker, note
        self._work: queue.SimpleQueue[tuple[str, Callable[[], JsonDict | None]] | None] = queue.SimpleQueue()
        self._failed = self._has_begun = False
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def begin(self, run: RunFacts, kept: JsonDict) -> None:
        """Have the tracker begin."""
        self._work.put(("begin", lambda: self._tracker.begin(run, kept)))

    def log(self, step: int, metrics: Metrics) -> None:
        """Hand over a step's metrics."""
        self._put(f"step {step}", lambda: self._tracker.log(step, metrics))

    def chains(self, step: int, folders: Sequence[Path]) -> None:
        """Hand over recorded chains; they are read in the thread."""

        def read_and_show() -> None:
            self._tracker.chains(step, [read_chain(folder / RECORD) for folder in folders])

        self._put(f"the chains of step {step}", read_and_show)

    def close(self, outcome: Outcome) -> None:
        """Let it finish what waits, and end it if it has begun; one over ``CLOSE_S`` is reported and left."""
        self._put("the end", lambda: self._tracker.end(outcome) if self._has_begun else None)
        self._work.put(None)
        self._thread.join(timeout=CLOSE_S)
        if self._thread.is_alive() and not self._failed:
            self._failed = True
            reason = f"it did not finish within {CLOSE_S:g} s, what it had not taken is in metrics.jsonl only"
            logger.error("tracker %s: %s", self._name, reason)
            self._note(self._name, {"state": "failed", "at": "the end", "reason": reason})

    def _put(self, what: str, work: Callable[[], None]) -> None:
        if not self._failed:
            self._work.put((what, work))

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            what, work = item
            if self._failed:
                continue
            try:
                kept = work()
            except (Exception, SystemExit) as error:
                self._failed = True
                logger.exception("tracker %s failed at %s and is left out from here on", self._name, what)
                reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                self._note(self._name, {"state": "failed", "at": what, "reason": reason})
            else:
                if what == "begin":
                    self._has_begun = True
                    self._note(self._name, {"state": "on", "kept": kept or {}})


# --------------------------------------------------------------------------------- all of a run's


class Trackers:
    """All trackers of a run: a sink that never raises."""

    def __init__(self, config: Config, run: RunDir) -> None:
        """Make the trackers; none has begun.

        Raises:
            ConfigError: If one cannot be found.
        """
        self._config, self._run = config, run
        self._lock = threading.Lock()
        self._notes: dict[str, Any] = {**_kept_notes(run.tracking)}
        self._threads = [
            TrackerThread(name, load_tracker(name), self._note) for name in dict.fromkeys(config.trackers)
        ]

    def begin(self, first_step: int) -> None:
        """Have all begin, or go on where an earlier attempt of the run stopped."""
        if not self._threads:
            return
        facts = RunFacts(
            name=self._config.name,
            run_dir=self._run.path.resolve(),
            config=yaml.safe_load(to_yaml(self._config)),
            code=code_version(),
            first_step=first_step,
            num_steps=self._config.num_steps,
        )
        for name, thread in zip(self._config.trackers, self._threads, strict=True):
            thread.begin(facts, self._notes.get(name, {}).get("kept", {}))

    def log(self, step: int, metrics: Metrics) -> None:
        """Hand a step's metrics to all."""
        for thread in self._threads:
            thread.log(step, dict(metrics))

    def chains(self, step: int, folders: Sequence[Path]) -> None:
        """Hand recorded chains, by their folders, to all."""
        for thread in self._threads:
            if folders:
                thread.chains(step, folders)

    def close(self, outcome: Outcome) -> None:
        """End all."""
        for thread in self._threads:
            thread.close(outcome)

    def _note(self, name: str, change: JsonDict) -> None:
        """Keep what has become of a tracker in ``tracking.json``."""
        with self._lock:
            self._notes[name] = {"kept": {}} | self._notes.get(name, {}) | change
            if change["state"] == "on":
                self._notes[name] = {key: self._notes[name][key] for key in ("kept", "state")}
            self._run.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self._run.tracking, json.dumps(self._notes, indent=1))


@contextmanager
def tracking(config: Config, run: RunDir) -> Iterator[Trackers]:
    """Have a run's trackers for the length of the block, and close them whatever becomes of it."""
    trackers = Trackers(config, run)
    outcome: Outcome = "failed"
    try:
        yield trackers
        outcome = "finished"
    finally:
        trackers.close(outcome)


def load_tracker(name: str) -> Tracker:
    """Make the tracker of a name, or of ``package.module:Class``; nothing is begun.

    Raises:
        ConfigError: If there is no such class, or it is no tracker.
    """
    cls = load_target(OURS.get(name, name), key="trackers")
    if not (isinstance(cls, type) and issubclass(cls, Tracker)):
        raise ConfigError(f"trackers: {name} is no subclass of cluster.record.trackers.base.Tracker")
    try:
        return cls()
    except TypeError as error:
        raise ConfigError(f"trackers: {name} cannot be made without arguments: {error}") from error


def check_trackers(names: Sequence[str]) -> None:
    """Find out, before anything starts, whether all trackers can be made and have what they need.

    Raises:
        ConfigError: For the first that cannot.
    """
    for name in names:
        load_tracker(name).check()


def _kept_notes(path: Path) -> dict[str, TrackerNote]:
    """Return the same for a run that goes on: what cannot be read is begun anew, with a warning."""
    try:
        return read_notes(path)
    except DamagedFileError as error:
        logger.warning("%s; every tracker begins a new run", error)
        return {}


def flat(config: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return a nested configuration as dotted keys and short texts."""
    texts: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            texts |= flat(value, f"{prefix}{key}.")
        else:
            texts[f"{prefix}{key}"] = str(value)
    return texts
