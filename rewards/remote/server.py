"""A small server that hosts one reward over HTTP, for ``rewards.http`` in another environment or cluster to ask.

Reference, not a gateway: it has no users, no encryption and no queue. Put it behind something that has them where
others can reach it. ``rewards.remote.wire`` has the schema.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rewards.base import Reward, judge
from rewards.remote.wire import DESCRIBE_PATH, SCORE_PATH, WireError, decode_request, describe, encode_answer
from rl.errors import ConfigError
from rl.types import JsonDict

logger = logging.getLogger(__name__)

LARGEST_REQUEST = 512 << 20
"""Most bytes of a request that are read."""
_IDLE_S = 60.0
"""A client that sends nothing for so long is let go."""


class RewardServer(ThreadingHTTPServer):
    """Serves one reward; ``serve_forever`` runs it, ``shutdown`` from another thread ends it.

    Requests are read at once, and scored one after the other: rewards need not be safe for threads.
    """

    daemon_threads = True

    def __init__(self, reward: Reward, name: str, *, host: str, port: int, token: str = "") -> None:
        """Bind the address.

        Args:
            reward: Set up.
            name: For the description and the log.
            host: Address to listen at; ``127.0.0.1`` is for this machine alone.
            port: TCP port; 0 takes a free one (``server_port``).
            token: What clients must send as ``Authorization: Bearer``; empty asks for nothing.

        Raises:
            ConfigError: If the address is taken or not ours.
        """
        self.reward = reward
        self.name = name
        self.token = token
        self.scoring = threading.Lock()
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--host {host} --port {port}: cannot listen there: {error}") from error


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: RewardServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Describe the reward."""
        if self._is_allowed() and self._is_path(DESCRIBE_PATH):
            self._answer(HTTPStatus.OK, describe(self.server.reward, self.server.name))

    def do_POST(self) -> None:
        """Score a batch."""
        body = self._body()
        if body is None or not (self._is_allowed() and self._is_path(SCORE_PATH)):
            return
        try:
            chains = decode_request(json.loads(body))
        except (WireError, ValueError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error) or type(error).__name__)
            return
        with self.server.scoring:
            scores = judge(self.server.reward, self.server.name, chains)
        self._answer(HTTPStatus.OK, encode_answer(scores))

    def _body(self) -> bytes | None:
        """Read the body first, whatever becomes of the request: an unread one would be taken for the next."""
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if 0 <= length <= LARGEST_REQUEST:
            return self.rfile.read(length)
        self.close_connection = True
        self._refuse(HTTPStatus.LENGTH_REQUIRED, f"want a Content-Length of 0 to {LARGEST_REQUEST}")
        return None

    def _is_allowed(self) -> bool:
        wanted, given = f"Bearer {self.server.token}", self.headers.get("Authorization", "")
        if not self.server.token or hmac.compare_digest(wanted.encode(), given.encode()):
            return True
        self._refuse(HTTPStatus.UNAUTHORIZED, "want the server's token")
        return False

    def _is_path(self, path: str) -> bool:
        if self.path == path:
            return True
        self._refuse(
            HTTPStatus.NOT_FOUND, f"nothing at {self.path}; want GET {DESCRIBE_PATH} or POST {SCORE_PATH}"
        )
        return False

    def _refuse(self, status: HTTPStatus, error: str) -> None:
        self._answer(status, {"error": error})

    def _answer(self, status: HTTPStatus, message: JsonDict) -> None:
        body = json.dumps(message, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log where the rest of the program logs."""
        logger.debug("%s %s", self.address_string(), format % args)
