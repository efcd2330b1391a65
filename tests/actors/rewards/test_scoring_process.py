"""Functions score in a run as they do for their authors: alarms, event loops, exits, tensors."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from actors.rewards.scoring_process import ScoringProcess
from actors.rewards.worker import RewardWorker
from configs.schema import RewardConfig
from rewards.base import Failure, Reward, evaluate
from rewards.contract import check_promises, check_reward
from rewards.core.asynchrony import own_event_loop
from rewards.examples import example_chains
from rewards.load import load_reward
from rl.errors import ConfigError, RewardError
from tests.reference.rewards import make_request, make_view

HERE = "tests.actors.rewards.test_scoring_process"


# --------------------------------------------------------------------------------- of users


def scored(text: str) -> float:
    return min(len(text), 500) / 500


def with_alarm(completions, **kwargs):
    """As mathematics verifiers bound a slow parser."""

    def stop(*_):
        raise TimeoutError("too slow")

    scores = []
    for text in completions:
        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(1)
        try:
            if "slow" in text:
                time.sleep(5)
            scores.append(scored(text))
        except TimeoutError:
            scores.append(0.0)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    return scores


def with_loop(completions, **kwargs):
    async def one(text):
        return scored(text)

    loop = asyncio.get_event_loop()
    return [loop.run_until_complete(one(text)) for text in completions]


def with_run(completions, **kwargs):
    async def all_of_them():
        return [scored(text) for text in completions]

    return asyncio.run(all_of_them())


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if "leave" in solution_str:
        sys.exit(0)
    return {"score": np.array([scored(solution_str)])}


async def leaves(data_source, solution_str, ground_truth, extra_info=None):
    if "leave" in solution_str:
        sys.exit(0)
    return scored(solution_str)


def dies(completions, **kwargs):
    import os

    os._exit(7)


class Loops(Reward):
    """A class that asks for the thread's event loop."""

    def score(self, chains):
        return with_loop([chain.text for chain in chains])


class Alarms(Reward):
    """A class with an alarm."""

    def score(self, chains):
        return with_alarm([chain.text for chain in chains])


class LeavesInSetup(Reward):
    def setup(self):
        sys.exit(0)

    def score(self, chains):
        return [0.0 for _ in chains]


def leave_and_stay(completions, **kwargs):
    if any("leave" in text for text in completions):
        sys.exit(0)
    return [scored(text) for text in completions]


def tensors(completions, **kwargs):
    import torch

    return torch.tensor([[scored(text)] for text in completions])


# --------------------------------------------------------------------------------- tests


@pytest.fixture(autouse=True)
def _loop_of_the_main_thread() -> Iterator[None]:
    """The kit asks functions here."""
    with own_event_loop():
        yield


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[RewardWorker]:
    worker = RewardWorker(name="mine", config=RewardConfig(target=f"{HERE}:{request.param}"))
    worker.setup()
    yield worker
    worker.close()


def ask(worker: RewardWorker, *texts: str):
    async def main():
        calls = []
        for text in texts:
            request, pictures = make_request(make_view(text))
            calls.append(worker.score([request], *pictures))
        return await asyncio.gather(*calls)

    return asyncio.run(main())


ALL = ["with_alarm", "with_loop", "with_run", "compute_score", "leaves", "leave_and_stay", "tensors", "Loops"]


@pytest.mark.parametrize("worker", ALL, indirect=True)
def test_what_the_check_passes_scores_in_a_worker(worker, request):
    name = request.node.callspec.params["worker"]
    check_reward(load_reward("mine", RewardConfig(target=f"{HERE}:{name}")))
    (scores,) = ask(worker, "one two three")
    assert scores.valid.all(), scores.reasons
    assert scores.values[0] == pytest.approx(scored(make_view("one two three").text))


@pytest.mark.parametrize("worker", ["with_alarm"], indirect=True)
def test_an_alarm_goes_off(worker):
    first, second = ask(worker, "slow", "quick")
    assert (first.values[0], first.valid[0]) == (0.0, True)
    assert second.values[0] > 0


@pytest.mark.parametrize("worker", ["compute_score", "leaves", "leave_and_stay"], indirect=True)
def test_an_exit_ends_nothing_but_that_score(worker):
    leaving, staying = ask(worker, "leave", "stay")
    assert not leaving.valid[0]
    assert "exit" in leaving.reasons[0].lower()
    assert staying.valid[0], staying.reasons
    (again,) = ask(worker, "stay")
    assert again.valid[0]


def test_a_class_with_an_alarm_is_found_by_the_check_with_the_remedy():
    promises = {promise.name: promise for promise in check_promises(Alarms())}
    broken = promises["gives every example one finite score in its range, or a reason"]
    assert broken.state == "broken"
    assert "main thread" in broken.detail
    assert "make it a plain function" in broken.detail
    assert "vlcot rewards serve" in broken.detail


def test_an_exit_in_setup_is_an_error_of_the_reward():
    worker = RewardWorker(name="mine", config=RewardConfig(target=f"{HERE}:LeavesInSetup"))
    with pytest.raises(RewardError, match="setup failed: SystemExit"):
        worker.setup()


def test_the_process_ends_with_its_worker_and_its_end_is_said():
    process = ScoringProcess("mine", RewardConfig(target=f"{HERE}:with_loop"))
    process.setup()
    (child,) = [p for p in psutil.Process().children() if "scoring_process" in " ".join(p.cmdline())]
    process.close()
    assert not child.is_running()

    process = ScoringProcess("mine", RewardConfig(target=f"{HERE}:dies"))
    process.setup()
    with pytest.raises(ChildProcessError, match="ended with code 7"):
        process.evaluate(example_chains())
    process.close()


def test_what_cannot_be_loaded_there_is_raised_here():
    process = ScoringProcess("mine", RewardConfig(target=f"{HERE}:nothing_of_this_name"))
    with pytest.raises(ConfigError, match=r"^rewards\.mine\.target: .* has no 'nothing_of_this_name'"):
        process.setup()
    process.close()


class Answers(Reward):
    def __init__(self, answer):
        self.answer = answer

    def score(self, chains):
        return [self.answer for _ in chains]


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_or_array_with_one_element_is_a_number(kind, shape):
    import torch

    answer = torch.ones(shape, dtype=getattr(torch, kind))
    answers = [answer] if kind == "bfloat16" else [answer, answer.numpy()]
    for given in answers:
        scores = evaluate(Answers(given), "mine", example_chains())
        assert scores.valid.all(), scores.reasons
        assert (scores.values == 1).all()


@pytest.mark.parametrize("shape", [(0,), (2,), (1, 2)])
def test_one_of_another_size_is_none(shape):
    import torch

    for given in (torch.ones(shape), np.ones(shape)):
        scores = evaluate(Answers(given), "mine", example_chains())
        assert not scores.valid.any()
        assert "of more or less than one element" in scores.reasons[0]


def test_a_reward_may_still_say_why_there_is_none():
    scores = evaluate(Answers(Failure("why")), "mine", example_chains())
    assert set(scores.reasons) == {"why"}
