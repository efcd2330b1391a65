"""Reward behind a URL: in another environment, on another machine. ``rewards.remote.wire`` has the schema."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import httpx

from configs.errors import prefixed
from configs.suggest import suggest
from rewards.base import Failure, Reward, Score
from rewards.core.one_line import one_line
from rewards.plain.columns import check_bounds, parse_needs
from rewards.remote.request import Patience, RequestError, exchange
from rewards.remote.wire import DESCRIBE_PATH, SCORE_PATH, WireError, decode_answer, describe, encode_request
from rl.errors import ConfigError, RewardError
from rl.types import ChainView

DECLARED: Mapping[str, Any] = {
    "needs": ["text"],
    "unit": "share",
    "low": None,
    "high": None,
    "missing": 0.0,
    "larger_is_better": True,
    "deterministic": True,
}
"""What a server's reward is taken to declare where the config says nothing else."""


LONGEST_S, MOST_TRIES = 1e6, 1000


class HttpReward(Reward):
    """Scores chains by asking a server, whole batches at once.

    What it declares is stated in the config, so that a run can be planned without the server, and compared with
    what the server declares before the run starts and again in each worker. A server that does not describe itself
    (status 404) is taken at the config's word.

    A refused connection, a timeout, a status of 429 or 5xx is tried again, with growing and random pauses; when the
    tries or the time are used up, and for every answer that is not of the schema, the chains of the batch have no
    score, with the reason.
    """

    def __init__(
        self,
        url: str,
        *,
        declares: Mapping[str, Any] | None = None,
        timeout_s: float = 30.0,
        total_s: float = 120.0,
        max_tries: int = 5,
        token_env: str = "",
    ) -> None:
        """Choose the server.

        Args:
            url: Where it is, ``http://host:port``, without the schema's paths.
            declares: What its reward declares, where that differs from ``DECLARED``: ``needs`` (a list of inputs),
                ``unit``, ``low`` and ``high`` (null is unbounded), ``missing``, ``larger_is_better``,
                ``deterministic``. ``vlcot rewards serve`` prints it.
            timeout_s: Longest a request may take, from connecting to the last byte, seconds.
            total_s: Longest a batch may take, all tries and pauses together, seconds.
            max_tries: Most requests for one batch.
            token_env: Environment variable with a token, sent as ``Authorization: Bearer``; empty sends none.

        Raises:
            ConfigError: If the address, a declaration or a number cannot be.
        """
        _check_url(url)
        for key, seconds in {"timeout_s": timeout_s, "total_s": total_s}.items():
            if (
                isinstance(seconds, bool)
                or not isinstance(seconds, int | float)
                or not 0 < seconds <= LONGEST_S
            ):
                raise ConfigError(f"{key}: want a number above 0 and at most {LONGEST_S:g}, got {seconds!r}")
        if isinstance(max_tries, bool) or not isinstance(max_tries, int) or not 1 <= max_tries <= MOST_TRIES:
            raise ConfigError(f"max_tries: want a whole number from 1 to {MOST_TRIES}, got {max_tries!r}")
        self.url = url.rstrip("/")
        self.token_env = token_env
        self._patience = Patience(timeout_s=timeout_s, total_s=total_s, max_tries=max_tries)
        self._is_down = False
        self._declare(declares or {})

    def _declare(self, declares: Mapping[str, Any]) -> None:
        if not isinstance(declares, Mapping):
            raise ConfigError(f"declares: want a mapping of {', '.join(DECLARED)}, got {declares!r}")
        for key in declares:
            if key not in DECLARED:
                raise ConfigError(f"declares: unknown key {key!r}{suggest(key, DECLARED)}")
        declared = {**DECLARED, **declares}
        self.low = -math.inf if declared["low"] is None else declared["low"]
        self.high = math.inf if declared["high"] is None else declared["high"]
        with prefixed("declares."):
            check_bounds(self.low, self.high, declared["missing"])
            self.needs = parse_needs(declared["needs"])
        self.unit = str(declared["unit"])
        self.larger_is_better = bool(declared["larger_is_better"])
        self.deterministic = bool(declared["deterministic"])
        self._missing = float(declared["missing"])

    @property
    def missing(self) -> float:
        """Score of a chain that lacks an input."""
        return self._missing

    def check(self) -> None:
        """Refuse a server that cannot be reached, or that declares something else than the config."""
        try:
            self._compare(self._ask("GET", DESCRIBE_PATH, None))
        except RequestError as error:
            if error.status != 404:
                raise ConfigError(f"url: {error}; start the server first (vlcot rewards serve)") from error

    def setup(self) -> None:
        """Compare what the server declares with the config, once more, in the worker.

        Raises:
            ConfigError: If they differ.
            RewardError: If the server cannot be reached.
        """
        try:
            self._compare(self._ask("GET", DESCRIBE_PATH, None))
        except RequestError as error:
            if error.status != 404:
                raise RewardError(f"reward at {self.url}: {error}") from error

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Ask for the batch's scores."""
        try:
            answer = self._ask("POST", SCORE_PATH, encode_request(chains))
            self._is_down = False
            return decode_answer(answer, len(chains))
        except (RequestError, WireError) as error:
            self._is_down = isinstance(error, RequestError) and error.status != HTTPStatus.OK
            return [Failure(f"{self.url}: {error}")] * len(chains)

    def _ask(self, method: str, path: str, message: Any) -> Any:
        headers = {"Authorization": f"Bearer {read_token(self.token_env)}"} if self.token_env else {}
        # A server that exhausted a batch's tries gets one a call until it answers: the chains of that batch are asked
        # about once more each, and the waits would add up.
        patience = dataclasses.replace(self._patience, max_tries=1) if self._is_down else self._patience
        return exchange(method, self.url + path, message, headers=headers, patience=patience)

    def _compare(self, described: Any) -> None:
        """Refuse a difference that would change what scores mean."""
        if not isinstance(described, dict):
            raise ConfigError(f"url: {self.url} describes no reward; is it one of ours?")
        ours = describe(self, "")
        for key in ("needs", "larger_is_better", "missing"):
            theirs = described.get(key, ours[key])
            if theirs != ours[key]:
                shown = one_line(json.dumps(theirs))
                raise ConfigError(
                    f"declares.{key}: the server has {shown}, the config {json.dumps(ours[key])}; "
                    f"set declares.{key}={shown}"
                )


def read_token(variable: str) -> str:
    """Return the token in an environment variable; no message repeats it.

    Raises:
        ConfigError: If the variable is not set, or holds what no header can.
    """
    token = os.environ.get(variable, "")
    if not token:
        raise ConfigError(f"token_env: the environment has no variable {variable}")
    if not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"token_env: {variable} has a line break, or something else that no header can have"
        )
    return token


def _check_url(url: str) -> None:
    """Refuse what is no server's address; a password in it is not repeated."""
    try:
        parts = httpx.URL(str(url))
        parts.host.encode("idna")  # what a name is looked up by
    except (httpx.InvalidURL, UnicodeError):
        parts = httpx.URL("")
    if parts.userinfo or "@" in str(url):
        raise ConfigError("url: name and password in it would stand in every file of a run; use token_env")
    is_server = parts.scheme in ("http", "https") and parts.host and (parts.port or 80) < 1 << 16
    if not is_server or parts.query or parts.fragment:
        raise ConfigError(f"url: want http://host:port, got {str(url)!r}")
