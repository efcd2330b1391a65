"""The run directory: whole checkpoints are found behind damaged ones, and what is replaced counts no more."""

import json
import logging

import pytest

from cluster.record.rundir import STATE, RunDir
from rl.ahead import DataPosition

DAMAGED = ["", "{", '{"step": 20}', "[]", '{"step": "x", "position": 1, "versions": {}}',
           '{"step": 20, "position": 1, "versions": [1]}', "\0" * 40]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    for step in (10, 20):
        (run.begin_checkpoint(step) / "text").mkdir(parents=True)
        run.finish_checkpoint(
            step, data=DataPosition(position=4 * step, again=(step,)), versions={"text": step}, keep=2
        )
    return run


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_state_hides_no_older_checkpoint(run, content, caplog):
    (run.checkpoint_path(20) / STATE).write_text(content)
    caplog.set_level(logging.WARNING)
    newest = run.newest_checkpoint()
    assert newest is not None
    assert (newest.step, newest.data, newest.versions) == (
        10,
        DataPosition(position=40, again=(10,)),
        {"text": 10},
    )
    assert run.newest_checkpoint() == newest
    (line,) = {record.getMessage() for record in caplog.records}
    assert str(run.checkpoint_path(20) / STATE) in line
    assert "passed over" in line


def test_a_damaged_checkpoint_is_made_again_and_counts(run):
    (run.checkpoint_path(20) / STATE).write_text("")
    path = run.begin_checkpoint(20)
    assert not path.exists()
    path.mkdir()
    run.finish_checkpoint(20, data=DataPosition(position=80), versions={"text": 20}, keep=1)
    assert [one.step for one in run.checkpoints()] == [20]
    assert not run.checkpoint_path(10).exists()


def test_half_checkpoints_are_removed_and_whole_ones_stay(run):
    (run.begin_checkpoint(30) / "text").mkdir(parents=True)
    run.remove_half_checkpoints()
    assert [path.name for path in sorted((run.path / "checkpoints").iterdir())] == [
        "step_000010",
        "step_000020",
    ]
    assert json.loads((run.checkpoint_path(20) / STATE).read_text())["step"] == 20
