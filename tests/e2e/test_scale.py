"""The run of ``test_run`` over several ranks, with adapters, on a Ray that already runs, and as a trial of a search."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.record.sinks import read_metrics
from cluster.search.trials import TrialBook
from tests.reference.command import DEADLINE_S, NUM_STEPS, ROOT, numbers, vlcot

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]


@pytest.mark.long
def test_two_sharded_ranks_learn_what_one_learns(runs: Path) -> None:
    """ZeRO stage 3 for text and 2 for pictures, two ranks each, from the same cold start."""
    (start,) = runs.glob("coldstart-*")
    ranks = [
        "policies.text.learner.num_ranks=2",
        "policies.text.learner.zero_stage=3",
        "policies.image.learner.num_ranks=2",
    ]
    settings = [f"output_dir={runs}", "name=ranks", f"coldstart.directory={start}", "eval.num_prompts=2"]
    vlcot("train", "tiny", *settings, *ranks, f"num_steps={NUM_STEPS}")
    one, two = (read_metrics(runs / name / "metrics.jsonl") for name in ("whole", "ranks"))
    for before, after in zip(one, two, strict=True):
        assert after["reward/total/mean"] == pytest.approx(before["reward/total/mean"], abs=1e-4)
        for policy in ("text", "image"):
            assert after[f"loss/{policy}/total"] == pytest.approx(before[f"loss/{policy}/total"], abs=1e-5)
            norm = f"learner/{policy}/grad_norm"
            assert after[norm] == pytest.approx(before[norm], rel=1e-3)


@pytest.mark.long
def test_a_search_goes_on_after_sigkill_and_its_trials_are_plain_runs(runs: Path) -> None:
    """Trial 0 tries the configuration's own values: it is ``whole`` over again, to the last bit."""
    (start,) = runs.glob("coldstart-*")
    key = "policies.text.learner.learning_rate"
    words = ["tiny", f"output_dir={runs}", "name=searched", f"coldstart.directory={start}"]
    words += [f"num_steps={NUM_STEPS}", "search.num_trials=2", f"search.space.{key}={{choice: [1e-5, 1e-3]}}"]
    book = TrialBook(runs / "searched" / "trials")
    command = [sys.executable, "-P", "-m", "cluster.cli", "search", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + DEADLINE_S
        while len(book.all()) < 2 and time.monotonic() < end and process.poll() is None:
            time.sleep(0.2)
        process.kill()
    first = book.read(0)
    assert (first.state, first.step, first.values) == ("finished", NUM_STEPS, {key: 1e-5})
    plain, tried = (read_metrics(path / "metrics.jsonl") for path in (runs / "whole", book.path(0)))
    assert [numbers(record) for record in plain] == [numbers(record) for record in tried]
    written = (book.path(0) / "metrics.jsonl").stat().st_mtime_ns

    said = vlcot("search", str(runs / "searched"), "search.num_trials=3", "search.max_concurrent=2")
    assert book.read(0) == first
    assert (book.path(0) / "metrics.jsonl").stat().st_mtime_ns == written, "it is not run again"
    assert [book.read(number).state for number in (1, 2)] == ["finished"] * 2
    times = [json.loads((book.path(number) / "status.json").read_text()) for number in (1, 2)]
    assert max(one["begin_s"] for one in times) < min(one["updated_s"] for one in times), "side by side"
    assert "trial-000" in said
    best = runs / "searched" / "best"
    values = {trial.name: trial.last for trial in book.all()}
    winner = json.loads((runs / "searched" / "search.json").read_text())["best"]
    assert values[winner] == max(values.values())
    assert ": fine" in vlcot("check", str(best), f"num_steps={NUM_STEPS + 1}")
    assert [record["step"] for record in read_metrics(best / "metrics.jsonl")] == list(range(NUM_STEPS))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a Ray cluster of this machine that others may join; ended by its own process group."""
    ready = tmp_path / "head.log"
    with ready.open("w") as log:
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"),
                *("--num-cpus=4", "--object-store-memory=1073741824", "--include-dashboard=false"),
            ],
            env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_prestart_worker_first_driver": "0"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"address='([0-9.:]+)'", ready.read_text())):
            assert head.poll() is None, ready.read_text()
            assert time.monotonic() < end, ready.read_text()
            time.sleep(0.5)
        yield found[1]
    finally:
        head.terminate()
        head.wait(timeout=60)


@pytest.mark.long
def test_a_run_joins_a_cluster_and_goes_on_elsewhere_from_its_storage(
    runs: Path, tmp_path: Path, cluster: str
) -> None:
    """A job's command on a running cluster; then a fresh folder resumes from what was copied, to the same numbers.

    As if the job had been killed after step 1, when step 2 was written but not its checkpoint.
    """
    storage = f"storage_path=file://{tmp_path}/far"
    words = ["tiny", "name=joined", f"num_steps={NUM_STEPS}", storage]
    assert "report:" in vlcot("train", *words, f"output_dir={runs}", "--address", cluster)
    whole, joined = (read_metrics(runs / name / "metrics.jsonl") for name in ("whole", "joined"))
    assert [numbers(record) for record in joined] == [numbers(record) for record in whole]

    newest = tmp_path / "far" / "joined" / "checkpoints" / "step_000002" / "state.json"
    newest.unlink()
    fresh = tmp_path / "fresh"
    vlcot("train", *words, f"output_dir={fresh}", "resume=true")
    assert newest.is_file(), "it is made and copied again"
    resumed = read_metrics(fresh / "joined" / "metrics.jsonl")
    assert [numbers(record) for record in resumed] == [numbers(record) for record in whole]
    before, after = (
        json.loads((run / "eval.json").read_text()) for run in (runs / "whole", fresh / "joined")
    )
    assert before["rows"] == after["rows"]


@pytest.mark.long
def test_adapters_are_trained_and_sent_by_broadcast(runs: Path) -> None:
    """Adapters of both policies, gloo and a reference, on the same cold start."""
    words = [f"output_dir={runs}", "name=adapters", "save_every=1"]
    for policy in ("text", "image"):
        words += [f"policies.{policy}.learner.lora=adapter", f"policies.{policy}.rollout.transport=gloo"]
    vlcot("train", "tiny", *words, "policies.text.loss.kl_weight=0.01", "num_steps=2")
    records = read_metrics(runs / "adapters" / "metrics.jsonl")
    assert [record["weights/text/version"] for record in records] == [1, 2]
    for record in records:
        for policy in ("text", "image"):
            assert record[f"weights/{policy}/canary_nats/max"] < 1e-4
            assert record[f"policy/{policy}/ratio_before_update/max_dev"] < 1e-4
            folder = newest_checkpoint(runs / "adapters") / policy
            adapter = (folder / "adapter" / "adapter_model.safetensors").stat().st_size
            assert 0 < record[f"weights/{policy}/published_bytes"] <= adapter
    assert "policy/text/ref_kl_nats/mean" in records[0]


def newest_checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]
