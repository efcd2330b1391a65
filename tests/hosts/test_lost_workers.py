"""Worker processes are killed in the middle of a run: it ends with the numbers of an undisturbed one, or says who."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.record.sinks import read_metrics
from tests.reference.command import DEADLINE_S, ROOT, numbers, vlcot

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

SETTINGS = [
    str(ROOT / "tests" / "reference" / "pictures.yaml"),
    "num_steps=3",
    "policies.image.learner.num_ranks=2",
]
"""The smallest system; the two ranks meet in collectives, in which one must not wait for a lost one."""


class Running:
    """A run in a process of its own, and what it has printed so far."""

    def __init__(self, folder: Path, name: str, *words: str) -> None:
        self.path, self._log = folder / name, folder / f"{name}.log"
        command = [sys.executable, "-P", "-m", "cluster.cli", "train"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *SETTINGS, *words, f"output_dir={folder}", f"name={name}"],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not is_so():
            assert self._process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def wait_for_checkpoint(self, step: int) -> None:
        """Wait until so many steps are done and saved; the next one begins then."""
        self.wait_until((self.path / "checkpoints" / f"step_{step:06d}" / "state.json").exists)

    def kill(self, worker: str) -> None:
        """Kill one worker process by its class."""
        below = psutil.Process(self._process.pid).children(recursive=True)
        named = [process for process in below if "".join(process.cmdline()).startswith(f"ray::{worker}")]
        named[0].kill()

    def finish(self, *, expect: int) -> None:
        assert self._process.wait(timeout=DEADLINE_S) == expect, self.said


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run, ``whole``, and its cold start."""
    folder = tmp_path_factory.mktemp("runs")
    vlcot("train", *SETTINGS, f"output_dir={folder}", "name=whole")
    return folder


def test_lost_workers_are_replaced_and_the_numbers_are_those_of_an_undisturbed_run(runs: Path) -> None:
    """First a rollout worker, which is replaced alone; then a learner rank, which takes the run back a step."""
    run = Running(runs, "killed")
    run.wait_for_checkpoint(1)
    run.kill("ImageRolloutWorker")
    run.wait_for_checkpoint(2)
    assert "is replaced; its work is done again" in run.said
    assert "going on from" not in run.said
    run.kill("LearnerRank")
    run.finish(expect=0)
    assert "going on from the checkpoint of step 2" in run.said
    whole, killed = (read_metrics(runs / name / "metrics.jsonl") for name in ("whole", "killed"))
    assert [numbers(record) for record in killed] == [numbers(record) for record in whole]


def test_a_run_that_must_stop_says_who_was_lost_in_one_line(runs: Path) -> None:
    run = Running(runs, "stopped", "on_lost_worker=stop")
    run.wait_for_checkpoint(1)
    run.kill("LearnerRank")
    run.finish(expect=1)
    last = run.said.strip().splitlines()[-1]
    assert last.startswith("vlcot: error: learner-image-")
    assert "the worker process on host " in last
    assert "resume=true goes on from the checkpoint of step 1 (on_lost_worker=stop)" in last
    assert "Traceback" not in run.said
