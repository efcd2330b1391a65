"""Worker processes are killed in the middle of a run: it ends with the numbers of an undisturbed one, or says who."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.record.sinks import read_metrics
from tests.reference.command import ROOT, numbers, vlcot
from tests.reference.running import Running

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

SETTINGS = [
    str(ROOT / "tests" / "reference" / "pictures.yaml"),
    "num_steps=3",
    "policies.image.learner.num_ranks=2",
]
"""The smallest system; the two ranks meet in collectives, in which one must not wait for a lost one."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run, ``whole``, and its cold start."""
    folder = tmp_path_factory.mktemp("runs")
    vlcot("train", *SETTINGS, f"output_dir={folder}", "name=whole")
    return folder


def test_lost_workers_are_replaced_and_the_numbers_are_those_of_an_undisturbed_run(runs: Path) -> None:
    """First a rollout worker, which is replaced alone; then a learner rank, which takes the run back a step."""
    run = Running(runs, "killed", *SETTINGS)
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
    run = Running(runs, "stopped", *SETTINGS, "on_lost_worker=stop")
    run.wait_for_checkpoint(1)
    run.kill("LearnerRank")
    run.finish(expect=1)
    last = run.said.strip().splitlines()[-1]
    assert last.startswith("vlcot: error: learner-image-")
    assert "the worker process on host " in last
    assert "resume=true goes on from the checkpoint of step 1 (on_lost_worker=stop)" in last
    assert "Traceback" not in run.said
