"""Guard that refuses network connections of one thread for a while, so that nothing is ever downloaded behind our back.

Libraries fetch weights with whatever client they like; all of them end in the audit events that Python raises
before a URL is opened, a name is resolved or a socket connects. Files that are already in a library's cache still load.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator

_EVENTS = frozenset({"urllib.Request", "socket.getaddrinfo", "socket.connect"})
_refusing = threading.local()


class DownloadRefusedError(RuntimeError):
    """A library tried to reach the network. Not an OSError: clients would take that for a reason to retry."""

    url: str = ""
    """What it tried to open, where it was asked for by URL."""


@contextlib.contextmanager
def refuse_downloads() -> Iterator[None]:
    """Make connections of this thread raise ``DownloadRefusedError`` while the block runs."""
    _install_hook()
    before = getattr(_refusing, "on", False)
    _refusing.on = True
    try:
        with _hub_offline():
            yield
    finally:
        _refusing.on = before


@functools.cache
def _install_hook() -> None:
    """Install the hook once: Python has no way to take an audit hook out again."""

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in _EVENTS and getattr(_refusing, "on", False):
            error = DownloadRefusedError("network access refused")
            error.url = str(args[0]) if event == "urllib.Request" else ""
            raise error

    sys.addaudithook(hook)


@contextlib.contextmanager
def _hub_offline() -> Iterator[None]:
    """Have huggingface_hub look into its cache without asking the hub whether it is up to date."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
