"""Scoring process: a reward function in the main thread of a process of its own, as its author ran it.

Alarm signals (every mathematics verifier has one) can be set in a main thread only, and many authors ask for the
thread's event loop, which only a main thread has. A worker's own main thread is its host's.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from configs.schema import RewardConfig
from rewards.base import evaluate
from rewards.core.tracebacks import RAISED
from rewards.load import load_reward
from rl.types import ChainView, Scores

_DIE_WITH_PARENT = 1
"""``PR_SET_PDEATHSIG`` of prctl(2)."""


class ScoringProcess:
    """The process, and the calls to it: one at a time."""

    def __init__(self, name: str, config: RewardConfig) -> None:
        """Start it; ``setup`` waits until it is ready.

        Args:
            name: Key of the reward.
            config: The reward, which is loaded there.
        """
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._end = weakref.finalize(self, _end, self._pipe, self._process)
        self._pipe.send((name, config))

    def setup(self) -> None:
        """Wait until the reward is set up.

        Raises:
            Exception: What its ``setup`` raised.
        """
        self._receive()

    def evaluate(self, views: Sequence[ChainView]) -> tuple[Scores, Mapping[str, str]]:
        """Return scores, and the tracebacks so far by fault; see ``rewards.base.evaluate``.

        Raises:
            ChildProcessError: If the process has ended.
        """
        self._pipe.send(views)
        scores, tracebacks = self._receive()
        return scores, tracebacks

    def close(self) -> None:
        """End it."""
        self._end()

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise ChildProcessError(f"the process of the reward ended with code {code}") from error
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _end(pipe: Connection, process: subprocess.Popen[bytes]) -> None:
    pipe.close()
    process.kill()
    process.wait()


def serve(descriptor: int) -> None:
    """Be the process: set the reward up, then score what comes until the other end is closed."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    pipe = Connection(descriptor)
    name, config = pipe.recv()
    try:
        reward = load_reward(name, config)
        reward.setup()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the border to user code: it is raised in the worker
        pipe.send(_travelling(error))
        return
    pipe.send(None)
    while True:
        try:
            views = pipe.recv()
        except EOFError:
            return
        pipe.send((evaluate(reward, name, views), RAISED.texts()))


def _travelling(error: BaseException) -> BaseException:
    """Return an exception as it is where it survives the way, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an author's class may do anything there
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
