"""Interrupts: what ends a process from outside, turned into the one exception that gets out of Ray's waits.

Ray lets only ``KeyboardInterrupt`` out of a wait, and makes a plain one of it. So SIGTERM, SIGHUP and the end of Ray's
control process all raise that, and what it stands for is kept here.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Batch systems and pods send the first, a terminal that is closed the second."""


class Terminated(Exception):  # noqa: N818 nothing went wrong
    """A signal asked the process to end."""

    def __init__(self, signum: int) -> None:
        """Note which."""
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum
        """By the shells' convention, as 130 for Ctrl-C."""


class Interrupts:
    """The process's interrupts; nothing changes before ``install``."""

    def __init__(self) -> None:
        self.cause: Exception | None = None
        """What the newest ``KeyboardInterrupt`` stands for; None for Ctrl-C."""
        self._is_installed = self._is_held = False

    def install(self) -> None:
        """Take the signals, but those that whoever started this process has it ignore (``nohup``)."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._is_installed = True
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._on_signal)

    def install_again(self) -> None:
        """Take the signals back from Ray, which takes SIGTERM when it starts."""
        if self._is_installed:
            self.install()

    def raise_in_main_thread(self, cause: Exception) -> None:
        """Interrupt the main thread at once, from any thread."""
        self.cause = cause
        self._is_held = False
        _thread.interrupt_main(signal.SIGTERM if self._is_installed else signal.SIGINT)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the first signal back until the block ends or ``let_through``; a second one interrupts at once."""
        with self._holding(held=True):
            yield
        self._raise_held()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Let signals through in a part of a block of ``held``; one that was held back interrupts here."""
        self._raise_held()
        with self._holding(held=False):
            yield

    @contextmanager
    def _holding(self, *, held: bool) -> Iterator[None]:
        before, self._is_held = self._is_held, held
        try:
            yield
        finally:
            self._is_held = before

    def _raise_held(self) -> None:
        if self.cause is not None:
            raise KeyboardInterrupt

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        is_first = self.cause is None
        self.cause = self.cause or Terminated(signum)
        if not (self._is_held and is_first):
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()
"""Of this process."""
