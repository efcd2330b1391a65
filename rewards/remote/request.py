"""Client of one JSON exchange over HTTP that ends: tried again where that can help, cut off where it takes too long."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from rewards.core.one_line import one_line

logger = logging.getLogger(__name__)

LARGEST_ANSWER = 16 << 20
"""Most bytes of an answer that are read."""
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that another try may change."""
_LONGEST_TEXT = 300
"""Characters of a server's own words that are passed on."""


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


def exchange(method: str, url: str, message: Any, *, headers: Mapping[str, str], patience: Patience) -> Any:
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
    # No compressed answers: LARGEST_ANSWER bounds what is held. The environment's proxies are not ours to use.
    sent = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
    answer = asyncio.run(_try(httpx.Request(method, url, content=body, headers=sent), patience))
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        start = answer[:40].decode("utf-8", "replace")
        raise RequestError(f"the answer is not JSON: {start!r}", HTTPStatus.OK) from error


async def _try(request: httpx.Request, patience: Patience) -> bytes:
    """Send a request until it is answered or patience ends."""
    last, trial = RequestError(f"no answer within {patience.total_s:g} s"), 0
    client = httpx.AsyncClient(verify=_certificates(), trust_env=False, timeout=None)
    try:
        async with asyncio.timeout(patience.total_s), client:
            for trial in range(1, patience.max_tries + 1):
                try:
                    return await _send(client, request, patience.timeout_s)
                except _PassingError as error:
                    last = error
                if trial < patience.max_tries:
                    # Differs between clients, so that a server that comes back is not met by all at once.
                    pause_s = min(patience.first_pause_s * 2.0 ** (trial - 1), patience.longest_pause_s)
                    logger.debug("%s %s: %s", request.method, request.url.path, last)
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
    except TimeoutError:
        logger.debug("%s %s: out of time", request.method, request.url.path)
    raise RequestError(f"{last} (tried {trial} times)", last.status)


async def _send(client: httpx.AsyncClient, request: httpx.Request, timeout_s: float) -> bytes:
    """Make one request and return the body of its answer."""
    answer = bytearray()
    try:
        async with asyncio.timeout(
            timeout_s
        ):  # the client's own is for each read: a byte a second never meets it
            response = await client.send(request, stream=True)
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > LARGEST_ANSWER:
                    raise RequestError(
                        f"an answer of more than {LARGEST_ANSWER >> 20} MiB", response.status_code
                    )
            await response.aclose()
    except TimeoutError as error:
        raise _PassingError(f"no answer within {timeout_s:.3g} s") from error
    except httpx.HTTPError as error:
        cause = _root(error)
        raise _PassingError(one_line(f"{type(cause).__name__}: {cause}", _LONGEST_TEXT)) from error
    if response.status_code != HTTPStatus.OK:
        text = one_line(answer.decode("utf-8", "replace"), _LONGEST_TEXT)
        kind = _PassingError if response.status_code in _RETRIED else RequestError
        raise kind(f"status {response.status_code}{f': {text}' if text else ''}", response.status_code)
    return bytes(answer)


@functools.cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


def _root(error: BaseException) -> BaseException:
    """Return what an error began with: a client's own words hide who refused."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error
