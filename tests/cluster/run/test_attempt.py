"""What an attempt saves: the last finished step though another is under way, and nothing by halves on a full disk."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.pools.gpu_sharing import GpuSharing
from cluster.record.rundir import RunDir
from cluster.run.attempt import Attempt, StepPublisher
from cluster.run.remote_copy import RemoteCopy
from cluster.runtime.interrupts import INTERRUPTS, Terminated
from configs.load import load_config
from rl.ahead import DataPosition
from rl.errors import DiskFullError, WorkerLostError
from rl.types import Metrics


@dataclass
class Weights:
    """A policy's learners as far as saving goes."""

    num_bytes: int
    version: int = 7

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(self.num_bytes))


def attempt_in(folder: Path, num_bytes: int = 1000) -> Attempt:
    config, run = (
        load_config("tiny", [f"output_dir={folder}", "name=x", "save_every=1"]),
        RunDir(folder / "x"),
    )
    workers = SimpleNamespace(learners={"text": Weights(num_bytes), "image": Weights(num_bytes)})
    session = SimpleNamespace(config=config, run=run, workers=workers, gpu_sharing=GpuSharing())
    return Attempt(
        session=cast(Any, session),
        collector=cast(Any, SimpleNamespace(data_position=DataPosition(position=99))),
        watch=cast(Any, SimpleNamespace(must_stop=False)),
        remote_copy=RemoteCopy(config, run, None),
        step=3,
        data=DataPosition(position=12, again=(9,)),
    )


def test_a_signal_saves_the_last_finished_step_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(INTERRUPTS, "cause", Terminated(15))
    attempt = attempt_in(tmp_path)
    for _ in range(2):
        attempt.save_before_the_end()
    (saved,) = attempt.session.run.checkpoints()
    assert (saved.step, saved.data) == (3, DataPosition(position=12, again=(9,)))
    assert saved.versions == {"text": 7, "image": 7}
    assert capsys.readouterr().out.startswith(
        "SIGTERM: the checkpoint of step 3 is saved; resume=true goes on"
    )


class Calls:
    """Of a collector, and its publisher: the first publication and the first proof meet a worker that is gone."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.calls = self

    def settle(self) -> None:
        self.done.append("settle")

    def mend(self, error: BaseException) -> None:
        self.done.append(f"mend {error}")

    def publish(self) -> None:
        self._do("publish")

    def prove(self) -> Metrics:
        self._do("prove")
        return {"weights/text/canary_nats/max": 0.0}

    def _do(self, what: str) -> None:
        self.done.append(what)
        if self.done.count(what) == 1:
            raise WorkerLostError("gone")


@pytest.mark.parametrize("is_ordered", [False, True])
def test_a_worker_that_was_lost_during_the_update_is_replaced_before_weights_are_published(
    is_ordered: bool,
) -> None:
    world = Calls()
    StepPublisher(world, cast(Any, world), is_ordered=is_ordered).publish()
    assert world.done == ["settle"] * is_ordered + ["publish", "mend gone", "publish"]


def test_a_worker_that_was_lost_while_it_wrote_its_canary_is_replaced_and_proved() -> None:
    world = Calls()
    assert StepPublisher(world, cast(Any, world), is_ordered=True).prove()
    assert world.done == ["prove", "mend gone", "prove"]


def test_before_the_first_step_there_is_nothing_to_save(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(INTERRUPTS, "cause", Terminated(15))
    attempt = attempt_in(tmp_path)
    attempt.step = 0
    attempt.save_before_the_end()
    assert not attempt.session.run.checkpoints()
    assert "no step was finished" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_fit_is_one_line_and_the_one_before_stays(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk of its own")
    try:
        attempt = attempt_in(disk, num_bytes=300_000)
        attempt.after_step(3)
        with pytest.raises(
            DiskFullError, match=r"the checkpoint of step 4 needs about 0\.6 MB, .* free; make room"
        ):
            attempt.after_step(4)
        run = attempt.session.run
        run.remove_half_checkpoints()
        assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step_000003"]
        assert [one.step for one in run.checkpoints()] == [3]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
