"""A run that samples ahead, with every engine real: a worker is killed, the run is stopped, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.record.rundir import RunDir
from cluster.record.sinks import read_metrics
from tests.reference.command import vlcot
from tests.reference.running import Running

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

NUM_STEPS = 6
SETTINGS = ["tiny", "deterministic=false", "max_staleness=1", f"num_steps={NUM_STEPS}", "eval.num_prompts=1"]


def test_a_run_that_samples_ahead_survives_a_lost_worker_and_a_signal(runs: Path) -> None:
    run = Running(runs, "ahead", *SETTINGS)
    run.wait_for_checkpoint(1)
    run.kill("TextRolloutWorker")
    run.wait_for_checkpoint(3)
    run.terminate()
    run.finish(expect=143)
    assert "rollout-text-0 on host" in run.said
    assert "going on from" not in run.said, "the worker alone is replaced"
    stopped = RunDir(run.path).newest_checkpoint()
    assert stopped is not None
    assert len(stopped.data.again) >= 2, "the next step was drawn and not trained"

    vlcot("train", *SETTINGS, f"output_dir={runs}", "name=ahead", "resume=true")
    records = read_metrics(run.path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(NUM_STEPS))
    for policy in ("text", "image"):
        oldest = [record[f"weights/{policy}/staleness/max"] for record in records]
        assert oldest[0] == oldest[stopped.step] == 0
        assert max(oldest) == 1
        assert records[0][f"policy/{policy}/ratio_before_update/max_dev"] < 1e-4
        assert all(record[f"weights/{policy}/canary_nats/max"] < 1e-4 for record in records)
    finished = RunDir(run.path).newest_checkpoint()
    assert finished is not None
    assert finished.data.again == ()
    assert finished.data.position > max(stopped.data.again)
