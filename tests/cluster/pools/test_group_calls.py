"""Group calls: taken in beside the main thread, asked for again after a loss, failures raised where one may repair."""

import _thread
import signal
import threading
from concurrent.futures import Future
from typing import Any, cast

import pytest

from cluster.pools.group_calls import MOST_REPAIRS, GroupCalls
from cluster.runtime.calls import Call, Worker
from rl.errors import CallTimeoutError, DataError, RewardError, WorkerLostError

LOST = WorkerLostError("rollout-text-0: gone")


class Ref:
    """A result under way."""

    def __init__(self, future: Future) -> None:
        self._future = future

    def future(self) -> Future:
        return self._future


class Runner:
    """Answers each request by what its script says next: a group, or an error; None never does."""

    name = "runner-0"

    def __init__(self, script: list[Any]) -> None:
        self.script, self.asked = list(script), []

    def call(self, method: str, request: str) -> Call:
        self.asked.append(request)
        future, answer = Future(), self.script.pop(0)
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        elif answer is not None:
            future.set_result(answer)
        return Call(name=self.name, method=method, ref=Ref(future))


def calls_to(runner: Runner, *, repair=None, deadline_s: float = 5.0) -> GroupCalls:
    return GroupCalls([cast(Worker, runner)], deadline_s=deadline_s, repair=repair)


def test_what_follows_from_a_group_is_asked_for_before_anybody_waits():
    runner, groups = Runner(["first", "second"]), []
    calls = calls_to(runner)

    def take_in(group):
        groups.append(group)
        if group == "first":
            calls.ask("b", take_in)

    calls.ask("a", take_in)
    with calls.lock:
        assert calls.lock.wait_for(lambda: len(groups) == 2, timeout=5)
    assert runner.asked == ["a", "b"]
    calls.wait_until(lambda: calls.is_idle)
    calls.close()


def test_what_a_lost_worker_had_is_asked_for_again_after_one_repair():
    runner, groups, repaired = Runner([LOST, ExceptionGroup("two", [LOST]), "a", "b"]), [], []
    calls = calls_to(runner, repair=repaired.append)
    with calls.lock:
        calls.ask("a", groups.append)
        calls.ask("b", groups.append)
    calls.wait_until(lambda: calls.is_idle)
    assert sorted(groups) == ["a", "b"]
    assert runner.asked[:2] == ["a", "b"]
    assert sorted(runner.asked[2:]) == ["a", "b"]
    assert len(repaired) == 1


def test_a_loss_that_was_mended_meanwhile_is_not_mended_again():
    runner, groups, repaired = Runner([LOST, "a"]), [], []
    calls = calls_to(runner, repair=repaired.append)
    calls.ask("a", groups.append)
    calls.mend(LOST)  # by who published weights to a worker that was gone
    calls.wait_until(lambda: calls.is_idle)
    assert (groups, len(repaired)) == (["a"], 1)
    with pytest.raises(RewardError):
        calls.mend(RewardError("no loss"))


def test_without_a_repair_a_loss_is_raised():
    calls = calls_to(Runner([LOST]))
    calls.ask("a", print)
    with pytest.raises(WorkerLostError):
        calls.wait_until(lambda: calls.is_idle)


def test_repairs_of_a_wait_are_bounded_and_for_losses_only():
    repaired = []
    calls = calls_to(Runner([RewardError("no weights")]), repair=repaired.append)
    calls.ask("a", print)
    with pytest.raises(RewardError):
        calls.wait_until(lambda: calls.is_idle)
    assert not repaired
    calls = calls_to(Runner([LOST] * 9), repair=repaired.append)
    calls.ask("a", print)
    with pytest.raises(WorkerLostError):
        calls.wait_until(lambda: calls.is_idle)
    assert len(repaired) == MOST_REPAIRS


def test_an_error_in_what_is_done_with_a_group_reaches_who_waits():
    def fail(group):
        raise DataError(f"no prompt after {group}")

    calls = calls_to(Runner(["first"]))
    calls.ask("a", fail)
    with pytest.raises(DataError, match="no prompt after first"):
        calls.wait_until(lambda: False)


def test_a_wait_without_an_answer_ends_and_names_who_is_silent():
    calls = calls_to(Runner([None]), deadline_s=0.05)
    calls.ask("a", print)
    with pytest.raises(CallTimeoutError, match=r"no answer from runner-0\.run_group within 0\.05 s"):
        calls.wait_until(lambda: calls.is_idle)


def test_an_interrupt_from_another_thread_gets_through_a_wait():
    calls = calls_to(Runner([None]), deadline_s=60.0)
    calls.ask("a", print)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Timer(0.2, _thread.interrupt_main).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            calls.wait_until(lambda: calls.is_idle)
    finally:
        signal.signal(signal.SIGINT, before)
