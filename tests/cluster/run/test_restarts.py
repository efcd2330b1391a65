"""What a run makes of a loss: who was lost is named, attempts are bounded, and other failures stay what they are."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from ray.exceptions import ObjectLostError, RayActorError, WorkerCrashedError

from cluster.record.rundir import RunDir
from cluster.run import restarts as survival
from cluster.run.restarts import MOST_LOSSES, describe_loss, losses_named, surviving
from cluster.runtime.lost import as_loss, losses_of
from configs.load import load_config
from rl.ahead import DataPosition
from rl.errors import CallTimeoutError, DivergedError, LostDataError, RewardError, WorkerLostError

LOST = WorkerLostError("rollout-text-0.generate: the worker process ended")
DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: X\n\tip: 10.0.0.7\nIt is dead."


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def save(run: RunDir, step: int) -> None:
    run.checkpoint_path(step).mkdir(parents=True)
    run.finish_checkpoint(step, DataPosition(position=step), versions={"text": step}, keep=9)


def attempts(*outcomes: object) -> Callable[[], object]:
    """Each attempt raises or returns the next outcome; a callable one does something and is then lost."""
    left = list(outcomes)

    def attempt() -> object:
        match left.pop(0):
            case BaseException() as error:
                raise error
            case outcome if callable(outcome):
                outcome()
                raise LOST
            case outcome:
                return outcome

    return attempt


def config(policy: str = "replace"):
    return replace(load_config("tiny"), on_lost_worker=policy)


def test_a_run_goes_on_after_a_loss(run):
    assert surviving(config(), run, attempts(LOST, "done")) == "done"


def test_a_run_that_must_stop_says_how_to_go_on(run):
    save(run, 4)
    with pytest.raises(WorkerLostError) as caught:
        surviving(config("stop"), run, attempts(LOST))
    assert str(caught.value) == (
        f"{LOST}; resume=true goes on from the checkpoint of step 4 (on_lost_worker=stop)"
    )


def test_losses_in_a_row_end_a_run(run):
    with pytest.raises(WorkerLostError, match=f"{MOST_LOSSES} losses in a row without a checkpoint"):
        surviving(config(), run, attempts(*[LOST] * MOST_LOSSES, "done"))


def test_a_new_checkpoint_begins_the_count_again(run):
    steps = [lambda step=step: save(run, step) for step in range(1, MOST_LOSSES + 3)]
    assert surviving(config(), run, attempts(*steps, "done")) == "done"


def test_another_failure_is_not_tried_again(run):
    with pytest.raises(DivergedError):
        surviving(config(), run, attempts(DivergedError("loss is not finite"), "done"))


def test_what_ray_says_of_a_death_is_a_loss_with_its_host():
    found = as_loss(RayActorError(error_msg=DIED), "learner-text-1.update")
    assert isinstance(found, WorkerLostError)
    assert str(found).startswith("learner-text-1.update: the worker process on host 10.0.0.7 ended: ")
    assert "\n" not in str(found)
    assert isinstance(as_loss(WorkerCrashedError(), "probe"), WorkerLostError)
    assert isinstance(as_loss(ObjectLostError("00", b"", "x"), "learner-text-0.update"), LostDataError)
    assert as_loss(RuntimeError("Connection closed by peer"), "learner-text-0.update") is None


def test_a_group_is_a_loss_unless_something_else_of_ours_failed():
    broken = RuntimeError("Connection closed by peer")
    assert losses_of(BaseExceptionGroup("", [broken, ExceptionGroup("", [LOST, LOST])])) == [LOST, LOST]
    assert losses_of(BaseExceptionGroup("", [LOST, RewardError("no weights")])) == []
    assert losses_of(broken) == []


def test_a_host_is_named_with_the_workers_on_it():
    hosts = {"rollout-text-0": "10.0.0.2", "rollout-text-1": "10.0.0.3", "learner-text-1": "10.0.0.3"}
    assert describe_loss([LOST], hosts, []) == str(LOST)
    said = describe_loss([LOST], hosts, ["10.0.0.3"])
    assert said == "host 10.0.0.3 was lost, with learner-text-1, rollout-text-1 on it"


def lose(error: BaseException) -> None:
    with losses_named() as hosts:
        hosts["learner-text-1"] = "10.0.0.3"
        raise error


@pytest.fixture(autouse=True)
def nobody_is_gone(monkeypatch):
    """A Ray that another test started knows nothing of these hosts."""
    monkeypatch.setattr(survival, "gone_hosts", lambda addresses: [])


def test_a_wait_for_a_host_that_is_gone_is_a_loss(monkeypatch):
    with pytest.raises(CallTimeoutError):
        lose(CallTimeoutError("no answer"))
    monkeypatch.setattr(survival, "gone_hosts", sorted)
    with pytest.raises(WorkerLostError, match=r"host 10\.0\.0\.3 was lost, with learner-text-1 on it"):
        lose(CallTimeoutError("no answer"))


def test_a_group_of_losses_becomes_one_line():
    with pytest.raises(WorkerLostError, match="rollout-text-0") as caught:
        lose(BaseExceptionGroup("several workers failed", [LOST, RuntimeError("closed")]))
    assert "\n" not in str(caught.value)
