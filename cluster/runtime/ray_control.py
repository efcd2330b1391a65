"""Ray's control process (gcs_server), watched: without it every wait lasts a minute, then Ray ends the process."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from cluster.runtime.interrupts import INTERRUPTS
from rl.errors import WorkerLostError

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks."""
SILENCE_S = 20.0
"""Longest that a cluster's control process may be out of reach; Ray itself gives up after 60 s."""


@contextmanager
def control_watched() -> Iterator[None]:
    """Interrupt the block when the control process of the Ray in use is gone.

    Raises:
        WorkerLostError: Then, in one line.
    """
    is_alive = _liveness()
    if is_alive is None:
        yield
        return
    end = threading.Event()
    thread = threading.Thread(target=_watch, args=(is_alive, end), name="ray-control", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if isinstance(cause := INTERRUPTS.cause, WorkerLostError):
            INTERRUPTS.cause = None
            raise cause from None
        raise
    finally:
        end.set()
        thread.join()


def _watch(is_alive: Callable[[], bool], end: threading.Event) -> None:
    while not end.wait(LOOK_S):
        if not is_alive():
            line = "Ray's control process (gcs_server) ended, and all of this Ray with it"
            INTERRUPTS.raise_in_main_thread(WorkerLostError(line))
            return


def _liveness() -> Callable[[], bool] | None:
    """Return what tells whether the control process is there; None where Ray's client sees to that itself."""
    node: Any = ray._private.worker._global_node
    started = [] if node is None else node.all_processes.get("gcs_server", [])
    if started:
        return lambda: started[0].process.poll() is None
    address = ray.get_runtime_context().gcs_address
    if not address or node is None:
        return None
    host, _, port = address.rpartition(":")
    return _Reachable(host.strip("[]"), int(port))


class _Reachable:
    """Whether a port was to be reached lately."""

    def __init__(self, host: str, port: int) -> None:
        self._place, self._reached_s = (host, port), time.monotonic()

    def __call__(self) -> bool:
        try:
            with socket.create_connection(self._place, timeout=LOOK_S):
                self._reached_s = time.monotonic()
        except OSError as error:
            logger.debug("Ray's control process at %s:%d: %s", *self._place, error)
        return time.monotonic() - self._reached_s < SILENCE_S
