"""Server that hosts one reward over HTTP, for ``rewards.http`` in another environment or cluster to ask.

It has no users and no encryption: put it behind something that has them where others can reach it. What strangers send
is bounded (the constants below), and nothing of it is read before the token. ``rewards.remote.wire`` has the schema.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from rewards.base import Reward, checked_scores
from rewards.core.one_line import one_line
from rewards.remote.wire import DESCRIBE_PATH, SCORE_PATH, WireError, decode_request, describe, encode_answer
from rl.errors import ConfigError
from rl.types import JsonDict

LARGEST_REQUEST = 256 << 20
"""Most bytes of a request. ``rewards.remote.wire.LARGEST_PIXELS`` bounds what its pictures unpack to."""
MAX_CONNECTIONS = 128
"""Connections at a time; one more is closed."""
MAX_REQUESTS = 8
"""Requests that are held in memory; others wait unread."""
HEAD_S = 10.0
"""Longest from connecting to the end of the headers."""
BODY_S = 120.0
"""Longest a request's body may take."""
LONGEST_S = 3600.0
"""Longest a connection lives, scoring and waiting for its turn included."""
_END_S = 2
"""What answers on their way have when the server ends."""


class RewardServer:
    """Serves one reward; ``serve_forever`` runs it, ``shutdown`` from another thread ends it.

    Requests are read at once, in a thread of the server, and scored one after the other in the thread that called
    ``serve_forever``: rewards need not be safe for threads, and in the main thread signals reach them.
    """

    def __init__(self, reward: Reward, name: str, *, host: str, port: int, token: str = "") -> None:
        """Bind the address.

        Args:
            reward: Set up.
            name: For the description.
            host: Address to listen at; ``127.0.0.1`` is for this machine alone.
            port: TCP port; 0 takes a free one (``server_port``).
            token: What clients must send as ``Authorization: Bearer``; empty asks for nothing.

        Raises:
            ConfigError: If the address is taken or not ours.
        """
        self._reward = reward
        self._name = name
        self._token = token
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._places = asyncio.Semaphore(MAX_REQUESTS)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--host {host} --port {port}: cannot listen there: {error}") from error
        self.server_port: int = self._socket.getsockname()[1]
        app = FastAPI(
            openapi_url=None,
            dependencies=[Depends(self._check_token)],
            exception_handlers={AnyHTTPException: _refuse},
        )
        app.get(DESCRIBE_PATH)(self._describe)
        app.post(SCORE_PATH)(self._score)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_Connection,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                headers=[("Connection", "close")],
                backlog=MAX_CONNECTIONS,
                timeout_graceful_shutdown=_END_S,
            )
        )

    def serve_forever(self) -> None:
        """Score what comes until ``shutdown``, or until the thread is interrupted."""
        thread = threading.Thread(target=self._listen, name="reward-server", daemon=True)
        thread.start()
        try:
            while (task := self._tasks.get()) is not None:
                task.run()
        finally:
            self._server.should_exit = True
            while thread.is_alive():
                self._refuse_waiting()
                thread.join(0.05)

    def shutdown(self) -> None:
        """End ``serve_forever``, from another thread."""
        self._tasks.put(None)

    def _listen(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self.shutdown()

    def _refuse_waiting(self) -> None:
        while not self._tasks.empty():
            if (task := self._tasks.get()) is not None:
                task.answer.set_exception(HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the server ends"))

    # ------------------------------------------------------------------ requests, in the server's thread

    async def _check_token(self, request: Request) -> None:
        wanted, given = f"Bearer {self._token}", request.headers.get("Authorization", "")
        if self._token and not hmac.compare_digest(wanted.encode(), given.encode()):
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "want the server's token")

    async def _describe(self) -> JsonDict:
        return describe(self._reward, self._name)

    async def _score(self, request: Request) -> JSONResponse:
        async with self._places:
            task = _Task(partial(self._answer_to, await _read(request)))
            self._tasks.put(task)
            return JSONResponse(await asyncio.wrap_future(task.answer))

    # ------------------------------------------------------------------ scoring

    def _answer_to(self, body: bytes) -> JsonDict:
        try:
            chains = decode_request(json.loads(body))
        except (WireError, ValueError, RecursionError) as error:
            reason = one_line(str(error)) or type(error).__name__
            raise HTTPException(HTTPStatus.BAD_REQUEST, reason) from error
        return encode_answer(checked_scores(self._reward, self._name, chains))


class _Task:
    """Work for the scoring thread, and its answer."""

    def __init__(self, work: Callable[[], JsonDict]) -> None:
        self._work = work
        self.answer: Future[JsonDict] = Future()

    def run(self) -> None:
        if not self.answer.set_running_or_notify_cancel():
            return
        try:
            self.answer.set_result(self._work())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the client's to hear; an author's exit is no end of ours
            self.answer.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        except BaseException:
            self.answer.set_exception(HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the server ends"))
            raise


class _Connection(H11Protocol):
    """A connection that ends: bounded in number and in time, where uvicorn waits for headers without end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._ends = [
            self.loop.call_later(HEAD_S, lambda: None if self.cycle else transport.abort()),
            self.loop.call_later(LONGEST_S, transport.abort),
        ]
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for end in self._ends:
            end.cancel()


async def _read(request: Request) -> bytes:
    """Return a request's body.

    Raises:
        HTTPException: If it is too large or comes too slowly.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_REQUEST:
                    raise HTTPException(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"want at most {LARGEST_REQUEST >> 20} MiB"
                    )
    except (TimeoutError, ClientDisconnect) as error:
        raise HTTPException(
            HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {BODY_S:g} s"
        ) from error
    return bytes(body)


async def _refuse(request: Request, error: Any) -> JSONResponse:
    text = error.detail
    if error.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        text = f"nothing at {request.url.path}; want GET {DESCRIBE_PATH} or POST {SCORE_PATH}"
    return JSONResponse({"error": one_line(text)}, error.status_code)
