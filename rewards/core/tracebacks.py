"""Tracebacks of rewards in this process: every distinct error once, with its whole traceback.

A reward that fails fails thousands of times. Its author needs one traceback, and the terminal has room for no more.
"""

from __future__ import annotations

import logging
import re
import threading
import traceback

logger = logging.getLogger(__name__)

MOST = 16
"""Distinct errors that are kept."""
_RAISED = re.compile(r"(\w+): .*\((.+:\d+)\)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(\d[\d.]*(e[-+]?\d+)?|nan\b|inf\b)")


def fault_of(reason: str) -> str:
    """Return what failures of one cause share: exception type and line, or the reason without its numbers.

    Args:
        reason: Why a chain has no score, as ``rewards.base.describe_exception`` or ``evaluate`` put it.
    """
    raised = _RAISED.fullmatch(reason)
    return f"{raised[1]} ({raised[2]})" if raised else _NUMBER.sub("#", reason)


class Tracebacks:
    """Keeps the first traceback of each fault; threads may share it."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def note(self, name: str, reason: str, chain_id: str, error: BaseException) -> None:
        """Log and keep an exception whose like was not seen before.

        Args:
            name: Key of the reward.
            reason: The exception in one line, ``rewards.base.describe_exception``.
            chain_id: First chain of the call that raised.
            error: As caught.
        """
        fault = fault_of(reason)
        with self._lock:
            if fault in self._texts or len(self._texts) >= MOST:
                return
            self._texts[fault] = "".join(traceback.format_exception(error))
        logger.error("reward %s failed on %s:\n%s", name, chain_id, self._texts[fault])

    def texts(self) -> dict[str, str]:
        """Return the tracebacks by fault."""
        with self._lock:
            return dict(self._texts)


RAISED = Tracebacks()
"""Of this process: a reward worker has one to itself."""
