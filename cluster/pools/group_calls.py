"""Group calls under way: sent to the chain runners in turn, taken in by a thread as they are answered.

The thread hands every group to whoever asked for it while the main thread waits, or trains: so what follows from a
group, such as another one in its place, is asked for at once. Failures wait for the main thread, which alone may
repair or raise: only between steps are learners free to give a new worker its weights.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue

from cluster.pools.chain_runner import GroupRequest
from cluster.runtime.calls import Call, Worker, on_answer, raise_failures
from cluster.runtime.lost import losses_of
from cluster.runtime.outstanding import OUTSTANDING
from rl.errors import CallTimeoutError
from rl.types import ScoredGroup

TICK_S = 0.5
"""A wait this long lets interrupts from other threads through, which wake nobody (``cluster.runtime.interrupts``)."""
MOST_REPAIRS = 2
"""Times that lost rollout workers are replaced in one wait."""

Then = Callable[[ScoredGroup], None]
"""What is done with a group, by the thread, under the lock."""
Repair = Callable[[BaseException], None]
"""Replaces lost rollout workers, or raises what it was given."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Asked:
    """One group that was asked for."""

    request: GroupRequest
    then: Then
    call: Call
    num_repairs: int
    """Repairs made before it was asked for."""
    waiting: ExitStack
    """Strikes it from what this process waits for."""


@dataclass(slots=True)
class GroupCalls:
    """The groups that are being sampled and scored."""

    runners: Sequence[Worker]
    deadline_s: float
    """Longest wait without any answer, seconds."""
    repair: Repair | None = None
    """None leaves every loss to others."""
    lock: threading.Condition = field(default_factory=threading.Condition, init=False)
    """Held wherever answers are taken in; notified when one was, or has failed."""
    _asked: list[_Asked] = field(default_factory=list, init=False)
    _failed: list[tuple[_Asked, BaseException]] = field(default_factory=list, init=False)
    _answers: SimpleQueue[tuple[_Asked, ScoredGroup | BaseException] | None] = field(
        default_factory=SimpleQueue, init=False
    )
    _thread: threading.Thread | None = field(default=None, init=False)
    _num_asked: int = field(default=0, init=False)
    _num_repairs: int = field(default=0, init=False)

    def ask(self, request: GroupRequest, then: Then) -> None:
        """Have a group sampled and scored, and ``then`` called with it."""
        with self.lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._take_in, name="group-calls", daemon=True)
                self._thread.start()
            call = self.runners[self._num_asked % len(self.runners)].call("run_group", request)
            self._num_asked += 1
            waiting = ExitStack()
            waiting.enter_context(OUTSTANDING.noted([(call.name, call.method)]))
            asked = _Asked(
                request=request, then=then, call=call, num_repairs=self._num_repairs, waiting=waiting
            )
            self._asked.append(asked)
        on_answer(call, lambda answer: self._answers.put((asked, answer)))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._asked and not self._failed

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Wait in the main thread until something is so, which is looked at under the lock after every answer.

        Lost rollout workers are replaced, and what they had in hand is asked for again: its seeds come from its
        prompt, so it is the same group but for the weights.

        Raises:
            VlcotError: As a group failed; several failures are raised as a group.
            CallTimeoutError: If no group was answered for ``deadline_s``.
        """
        most = self._num_repairs + MOST_REPAIRS
        while (failed := self._wait(is_done)) is not None:
            self._ask_again(failed, most)

    def mend(self, error: BaseException) -> None:
        """Replace lost rollout workers; what they had in hand is asked for again in the next wait.

        Raises:
            BaseException: The error, where it is no loss, or one that is left to others.
        """
        if self.repair is None or not losses_of(error):
            raise error
        self.repair(error)
        self._num_repairs += 1

    def close(self) -> None:
        """Take in nothing more."""
        self._answers.put(None)

    def _wait(self, is_done: Callable[[], bool]) -> list[tuple[_Asked, BaseException]] | None:
        """Return what has failed, or None where it is done."""
        end = time.monotonic() + self.deadline_s
        with self.lock:
            while not self._failed:
                if is_done():
                    return None
                if self.lock.wait(TICK_S):
                    end = time.monotonic() + self.deadline_s
                elif time.monotonic() >= end:
                    names = ", ".join(sorted({str(asked.call) for asked in self._asked}))
                    raise CallTimeoutError(
                        f"no answer from {names} within {self.deadline_s:g} s (deadline_s)"
                    )
            failed, self._failed = self._failed, []
            return failed

    def _ask_again(self, failed: Sequence[tuple[_Asked, BaseException]], most_repairs: int) -> None:
        """Replace lost workers unless that was done since these groups were asked for; ask for them again."""
        errors = [error for _, error in failed]
        raise_failures([error for error in errors if self.repair is None or not losses_of(error)])
        fresh = [error for asked, error in failed if asked.num_repairs == self._num_repairs]
        if fresh:
            if self._num_repairs == most_repairs:
                raise_failures(fresh)
            self.mend(fresh[0])
        for asked, _ in failed:
            self.ask(asked.request, asked.then)

    def _take_in(self) -> None:
        while (entry := self._answers.get()) is not None:
            asked, answer = entry
            with self.lock:
                asked.waiting.close()
                self._asked.remove(asked)
                if isinstance(answer, BaseException):
                    self._failed.append((asked, answer))
                else:
                    try:
                        asked.then(answer)
                    except Exception as error:  # noqa: BLE001  # goes to the main thread, whatever it is
                        self._failed.append((asked, error))
                self.lock.notify_all()
