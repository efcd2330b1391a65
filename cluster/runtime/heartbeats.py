"""Heartbeats: every worker process says each two seconds that it lives, what it does, and what it has done.

The sender is a thread in the worker's process, started by a call to it (``spawn``); the receiver is one small
actor, the heartbeat board, which the driver reads (``cluster.record.observer``). A worker that is busy goes on sending;
one that hangs as a whole (SIGSTOP, a stuck machine) falls silent, and what it was asked to do is then known from those
who wait for it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from cluster.runtime.calls import Worker, gather
from cluster.runtime.outstanding import OUTSTANDING, Wait
from cluster.runtime.pool_gauges import PoolGauges, PoolState
from rl.errors import VlcotError
from rl.spans import SPANS, PoolMeter, Span

logger = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
"""Seconds between two signs of life."""
PATIENCE_S = 60.0
"""Longest wait of a sender for the board. A board that ended ends its senders: the run is over."""
MOST_WAITING = 200_000
"""Spans the board keeps for a driver that does not read."""


@runtime_checkable
class HasMeters(Protocol):
    """A worker that serves a pool, or several."""

    def meters(self) -> Sequence[PoolMeter]:
        """Return the meters of its pools."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a worker says of itself."""

    worker: str
    host: str
    pid: int
    num: int
    """Counts the worker's heartbeats."""
    doing: Sequence[Span]
    """Open spans, outermost first."""
    waits: Sequence[Wait]
    """What it waits for of others."""
    pools: Sequence[PoolState]
    num_lost: int = 0
    """Spans it forgot because they were not collected in time."""
    done: Sequence[Span] = ()
    """Spans that ended since its last heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardReading:
    """What the board holds."""

    heartbeats: Mapping[str, Heartbeat]
    """Newest of each worker, without the spans that are done."""
    silent_s: Mapping[str, float]
    """Seconds since it came, by the board's own clock."""
    done: Mapping[str, Sequence[Span]]
    """By worker, everything that ended since the last reading."""


class HeartbeatBoard:
    """Receives heartbeats and hands them to the driver. A plain class; an actor of a run."""

    def __init__(self) -> None:
        self._newest: dict[str, Heartbeat] = {}
        self._heard: dict[str, float] = {}
        self._done: dict[str, list[Span]] = {}
        self._num_waiting = 0

    def take(self, heartbeat: Heartbeat) -> None:
        """Take a sign of life."""
        self._heard[heartbeat.worker] = time.monotonic()
        self._newest[heartbeat.worker] = replace(heartbeat, done=())
        if heartbeat.done and self._num_waiting < MOST_WAITING:
            self._done.setdefault(heartbeat.worker, []).extend(heartbeat.done)
            self._num_waiting += len(heartbeat.done)

    def forget(self, worker: str) -> None:
        """Strike out a worker that was ended on purpose; what it did stays."""
        self._newest.pop(worker, None)
        self._heard.pop(worker, None)

    def read(self) -> BoardReading:
        """Return what is new, and forget the spans."""
        now = time.monotonic()
        done, self._done, self._num_waiting = self._done, {}, 0
        silent_s = {name: now - heard for name, heard in self._heard.items()}
        return BoardReading(heartbeats=dict(self._newest), silent_s=silent_s, done=done)


# --------------------------------------------------------------------------------- the sender


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatTarget:
    """Where a run's workers send their heartbeats."""

    board: Worker
    run: str
    """Name of the run, for Ray's metrics."""


@dataclass(slots=True)
class _Process:
    """What this process knows of heartbeats."""

    target: HeartbeatTarget | None = None
    """Where the workers that it spawns send theirs."""


_PROCESS = _Process()


def heartbeat_target() -> HeartbeatTarget | None:
    """Return where the workers that this process spawns send heartbeats; None where nobody listens."""
    return _PROCESS.target


def set_heartbeat_target(target: HeartbeatTarget | None) -> None:
    """Have every worker that this process spawns from now on send heartbeats there."""
    _PROCESS.target = target


def send_heartbeats(worker: Worker) -> None:
    """Have a worker that was spawned just now send heartbeats, where anybody listens; nothing is waited for."""
    if _PROCESS.target is not None:
        worker.call_function(_begin, worker.name, _PROCESS.target)  # other calls may come before


def _begin(instance: object, name: str, target: HeartbeatTarget) -> None:
    """Start the sender's thread in a worker's process."""
    threading.Thread(target=Sender(name, instance, target).run, name="heartbeats", daemon=True).start()


def forget_worker(worker: Worker) -> None:
    """Tell the board that a worker was ended on purpose; nothing is waited for."""
    if _PROCESS.target is not None:
        _PROCESS.target.board.call("forget", worker.name)


class Sender:
    """Sends one worker's heartbeats."""

    def __init__(self, name: str, instance: object, target: HeartbeatTarget) -> None:
        self._name, self._instance, self._board = name, instance, target.board
        self._host, self._pid, self._num = socket.gethostname(), os.getpid(), 0
        self._gauges = PoolGauges(worker=name, run=target.run)

    def run(self) -> None:
        """Send until the board is gone: the run has ended then, and so will this process."""
        while True:
            try:
                gather([self._board.call("take", self.next_heartbeat())], deadline_s=PATIENCE_S)
            except VlcotError as error:
                logger.debug("%s: no more heartbeats: %s", self._name, error)
                return
            except Exception:
                # Ray is being left; or a fault of ours, which the silence will show. The work goes on.
                logger.debug("%s: no more heartbeats", self._name, exc_info=True)
                return
            time.sleep(HEARTBEAT_S)

    def next_heartbeat(self) -> Heartbeat:
        """Look at this process and say what it does."""
        self._num += 1
        meters = self._instance.meters() if isinstance(self._instance, HasMeters) else ()
        return Heartbeat(
            worker=self._name,
            host=self._host,
            pid=self._pid,
            num=self._num,
            doing=SPANS.under_way(),
            waits=[wait for wait in OUTSTANDING.waits() if wait.worker != self._board.name],
            pools=self._gauges.observe(meters, version=_version_of(self._instance)),
            num_lost=SPANS.num_lost,
            done=SPANS.take(),
        )


def _version_of(instance: object) -> int | None:
    """Return the weight version a rollout worker or learner rank has; None for others."""
    version: Any = getattr(instance, "version", None)
    return version if isinstance(version, int) else None
