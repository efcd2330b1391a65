"""Observer of a run, in the driver: once a second it writes ``status.json`` and appends to ``timeline.json``.

A thread of its own reads the board (``cluster.runtime.heartbeats``) and the driver's own spans; the loop is never
asked and never waits. A fault here is logged once and ends the watching, never the run.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import psutil

from cluster.record.run_files import State
from cluster.record.rundir import RunDir
from cluster.record.timeline import DRIVER, TimelineWriter
from cluster.runtime.calls import Call, Worker, gather, is_answered
from cluster.runtime.files import write_atomically
from cluster.runtime.heartbeats import (
    HEARTBEAT_S,
    BoardReading,
    HeartbeatBoard,
    HeartbeatTarget,
    set_heartbeat_target,
)
from cluster.runtime.outstanding import OUTSTANDING, Wait
from cluster.runtime.spawn import kill, spawn
from configs.errors import first_line
from configs.schema import Config
from rl.errors import AlarmError, VlcotError
from rl.spans import SPANS, Span
from rl.types import JsonDict, Metrics

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two refreshes of ``status.json``."""
ANSWER_S = 10.0
"""Longest wait for the board's last answer, and for this thread, at the end."""
_NOTHING_READ = BoardReading(heartbeats={}, silent_s={}, done={})


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest finished step."""

    num_done: int = 0
    metrics: Mapping[str, float] | None = None


class Observer:
    """One run's watcher; a sink, too, from which it knows the step."""

    def __init__(self, config: Config, run: RunDir) -> None:
        """Note what to watch; ``watching`` begins it."""
        self._config, self._run = config, run
        self._timeline = TimelineWriter(run.timeline)
        self._board: Worker | None = None
        self._asked: Call | None = None
        """A reading of the board that was asked for."""
        self._reading, self._read_s = _NOTHING_READ, time.monotonic()
        self._progress = Progress()
        self._state: State = "running"
        self._error = ""
        self._is_blind = False
        self._begin_s, self._num = time.time(), 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)
        self._lock = threading.Lock()

    def log(self, step: int, metrics: Metrics) -> None:
        """Take a step's metrics."""
        shown = {name: value for name, value in metrics.items() if name.startswith(("reward/", "time/"))}
        self._progress = Progress(step + 1, shown)

    def resumed_at(self, step: int) -> None:
        """Say how many steps were done before this attempt."""
        self._progress = Progress(step)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Have the workers that are spawned in the block send signs of life here."""
        board = spawn(HeartbeatBoard, "heartbeats-0", num_cpus=0, kwargs={})
        self._board = board
        try:
            set_heartbeat_target(HeartbeatTarget(board=board, run=self._config.name))
            yield
            self._hear_the_last()
        finally:
            set_heartbeat_target(None)
            with self._lock:
                self._board = self._asked = None
            kill(board)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs, and write down how it ended."""
        self._thread.start()
        try:
            yield
            self._state = "finished"
        except BaseException as error:
            self._state, self._error = _ending(error)
            raise
        finally:
            self._end.set()
            self._thread.join(timeout=ANSWER_S)
            if self._look_safely():
                self._timeline.close()

    # ------------------------------------------------------------------ the thread

    def _watch(self) -> None:
        while not self._end.wait(LOOK_S):
            if not self._look_safely():
                return

    def _look_safely(self) -> bool:
        """Look, unless that failed before: a full disk is said once and costs no run."""
        if self._is_blind:
            return False
        try:
            self._look()
        except Exception:
            self._is_blind = True
            logger.exception("timeline.json and status.json are not kept up from here on; the run goes on")
        return not self._is_blind

    def _look(self) -> None:
        """Read what is new and write it down."""
        with self._lock:
            self._hear()
            self._timeline.write(DRIVER, SPANS.take())
            self._num += 1
            write_atomically(
                self._run.status, json.dumps(self._describe(), indent=1, default=str), durable=False
            )

    def _hear(self, within_s: float = 0.0) -> None:
        """Take what the board holds where there are any, and ask for the next; their timeline is appended."""
        board = self._board
        if board is None:
            return
        self._asked = self._asked or board.call("read")
        if not is_answered(self._asked, within_s=within_s):
            return
        asked, self._asked = self._asked, board.call("read")
        try:
            (reading,) = gather([asked], deadline_s=ANSWER_S)
        except VlcotError as error:
            logger.debug("no reading of the workers: %s", error)
            return
        self._reading, self._read_s = reading, time.monotonic()
        for worker, spans in reading.done.items():
            self._timeline.write(worker, spans)

    def _hear_the_last(self) -> None:
        """Wait for one more sign of life of every worker: they send what they did last with it."""
        end = time.monotonic() + 1.5 * HEARTBEAT_S
        before = {name: heartbeat.num for name, heartbeat in self._reading.heartbeats.items()}
        while time.monotonic() < end:
            with self._lock:
                self._hear(within_s=HEARTBEAT_S / 4)
            if all(
                heartbeat.num > before.get(name, 0) for name, heartbeat in self._reading.heartbeats.items()
            ):
                return
            time.sleep(HEARTBEAT_S / 10)

    # ------------------------------------------------------------------ status.json

    def _describe(self) -> JsonDict:
        reading, progress = self._reading, self._progress
        reading_age = time.monotonic() - self._read_s
        waits = {DRIVER: OUTSTANDING.waits()} | {
            name: heartbeat.waits for name, heartbeat in reading.heartbeats.items()
        }
        asked = _asked(waits)
        return {
            "name": self._config.name,
            "state": self._state,
            "error": self._error,
            "pid": os.getpid(),
            "pid_begin_s": psutil.Process().create_time(),
            "host": socket.gethostname(),
            "begin_s": self._begin_s,
            "updated_s": time.time(),
            "num_updates": self._num,
            "num_done": progress.num_done,
            "num_steps": self._config.num_steps,
            "metrics": dict(progress.metrics or {}),
            "doing": [_span(span) for span in SPANS.under_way()],
            "workers": [
                _worker(name, reading, reading_age, asked.get(name, ()))
                for name in sorted({*reading.heartbeats, *asked} - {"heartbeats-0"})
            ],
        }


def _ending(error: BaseException) -> tuple[State, str]:
    kind, message = type(error).__name__, first_line(error)
    line = kind if message == kind else f"{kind}: {message}"
    if isinstance(error, AlarmError):
        return "alarm", line
    return ("interrupted" if isinstance(error, KeyboardInterrupt) else "failed"), line


def _asked(waits: Mapping[str, Sequence[Wait]]) -> dict[str, list[tuple[str, Wait]]]:
    """Turn what each process waits for into what each worker was asked, and by whom."""
    asked: dict[str, list[tuple[str, Wait]]] = {}
    for asker, waits_of_one in waits.items():
        for wait in waits_of_one:
            asked.setdefault(wait.worker, []).append((asker, wait))
    return asked


def _worker(
    name: str, reading: BoardReading, reading_age: float, asked: Sequence[tuple[str, Wait]]
) -> JsonDict:
    heartbeat = reading.heartbeats.get(name)
    return {
        "name": name,
        "host": heartbeat.host if heartbeat else "",
        "pid": heartbeat.pid if heartbeat else 0,
        "silent_s": round(reading.silent_s[name] + reading_age, 2) if heartbeat else None,
        "doing": [_span(span) for span in heartbeat.doing] if heartbeat else [],
        "asked": [
            {"by": asker, "method": wait.method, "num": wait.num, "seconds": round(wait.seconds, 2)}
            for asker, wait in asked
        ],
        "pools": [asdict(state) for state in (heartbeat.pools if heartbeat else ())],
    }


def _span(span: Span) -> JsonDict:
    return {"name": span.name, "seconds": round(span.seconds, 2), "details": dict(span.details)}
