"""One JSON exchange over HTTP that ends: tried again where that can help, cut off where it takes too long."""

from __future__ import annotations

import http.client
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

LARGEST_ANSWER = 16 << 20
"""Most bytes of an answer that are read."""
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that another try may change."""
_Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often to try."""

    timeout_s: float
    """Longest a request may take, from connecting to the last byte."""
    total_s: float
    """Longest all tries and pauses may take together."""
    max_tries: int
    """Most requests."""
    first_pause_s: float = 0.25
    """Pause after the first try; each is twice the one before, times a random 0.5 to 1."""
    longest_pause_s: float = 10.0


class RequestError(Exception):
    """No usable answer. The message says what came instead."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status

    def __str__(self) -> str:
        """Return the message alone."""
        return self.message


class _PassingError(RequestError):
    """An error that another try may not meet."""


def exchange(method: str, url: str, message: Any, *, headers: _Headers, patience: Patience) -> Any:
    """Send JSON and return the JSON that comes back.

    Only for requests that may be repeated: one that was cut off may have been carried out.

    Args:
        method: ``GET`` or ``POST``.
        url: http or https.
        message: JSON types; None sends no body.
        headers: Further headers.
        patience: Bounds.

    Raises:
        RequestError: If there was no answer in time, or one that is not 200 with JSON.
    """
    body = None if message is None else json.dumps(message, allow_nan=False).encode()
    ends_at = time.monotonic() + patience.total_s
    last: RequestError = RequestError(f"no answer within {patience.total_s:g} s")
    for trial in range(patience.max_tries):
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            break
        try:
            return _parsed(_send(method, url, body, headers, min(patience.timeout_s, left_s)))
        except _PassingError as error:
            last = error
        pause_s = _pause_s(trial, patience)
        if trial + 1 == patience.max_tries or time.monotonic() + pause_s >= ends_at:
            break
        logger.debug("%s %s: %s; again in %.1f s", method, url, last, pause_s)
        time.sleep(pause_s)
    raise RequestError(f"{last} (tried {trial + 1} times)", last.status)


def _pause_s(trial: int, patience: Patience) -> float:
    """Grow twofold, and differ between clients, so that a server that comes back is not met by all at once."""
    pause_s = min(patience.first_pause_s * 2.0**trial, patience.longest_pause_s)
    return pause_s * random.uniform(0.5, 1.0)


def _send(method: str, url: str, body: bytes | None, headers: _Headers, timeout_s: float) -> bytes:
    """Make one request and return the body of its answer."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    cut = threading.Event()
    # A socket's timeout is for each read; a server that sends a byte a second would never meet it.
    timer = threading.Timer(timeout_s, _cut_off, (connection, cut))
    timer.daemon = True
    timer.start()
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        answer = response.read(LARGEST_ANSWER + 1)
        if cut.is_set():
            raise _PassingError(f"no answer within {timeout_s:.3g} s")
        return _accepted(response.status, answer)
    except (OSError, http.client.HTTPException) as error:
        if cut.is_set() or isinstance(error, TimeoutError):
            raise _PassingError(f"no answer within {timeout_s:.3g} s") from error
        raise _PassingError(f"{type(error).__name__}: {error}") from error
    finally:
        timer.cancel()
        connection.close()


def _accepted(status: int, answer: bytes) -> bytes:
    if status == http.client.OK and len(answer) <= LARGEST_ANSWER:
        return answer
    if status == http.client.OK:
        raise RequestError(f"an answer of more than {LARGEST_ANSWER >> 20} MiB", status)
    said = " ".join(answer[:300].decode("utf-8", "replace").split())
    kind = _PassingError if status in _RETRIED else RequestError
    raise kind(f"status {status}{f': {said}' if said else ''}", status)


def _parsed(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        start = answer[:40].decode("utf-8", "replace")
        raise RequestError(f"the answer is not JSON: {start!r}", http.client.OK) from error


def _cut_off(connection: http.client.HTTPConnection, cut: threading.Event) -> None:
    """End a request from another thread: the read that waits for the socket fails."""
    cut.set()
    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            logger.debug("already closed", exc_info=True)
