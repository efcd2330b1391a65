"""The command line as a user has it, with every engine real: train, stop, resume, evaluate, restore."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.recorder import block_texts
from cluster.timeline import covered_frac, spans_of
from cluster.trackers import read_notes
from cluster.tracking import read_metrics
from cluster.trials import TrialBook
from rl.data.images import load_picture, resize
from rl.types import JsonDict
from tests.reference import own_package
from tests.reference.command import DEADLINE_S, FAILING, NUM_STEPS, ROOT, numbers, vlcot

pytestmark = [
    pytest.mark.ray,
    pytest.mark.engine,
    pytest.mark.slow,
    # 2026-11: MLflow 3.17 on SQLAlchemy 2.1, at its import.
    pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated"),
]


def test_every_step_is_recorded_and_proved(runs: Path) -> None:
    records = read_metrics(runs / "whole" / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(NUM_STEPS))
    for record in records:
        for reward in ("format", "degradation", "understanding", "generation", "total"):
            assert np.isfinite(record[f"reward/{reward}/mean"])
        for policy in ("text", "image"):
            assert record[f"policy/{policy}/ratio_before_update/mean_dev"] < 1e-5
            assert record[f"policy/{policy}/ratio_before_update/max_dev"] < 1e-4
            assert record[f"weights/{policy}/canary_nats/0"] < 1e-4
            assert record[f"weights/{policy}/version"] == record["step"] + 1
            assert record[f"learner/{policy}/grad_norm"] > 0
        for stage in ("rollout", "reward", "update", "publish"):
            assert record[f"time/{stage}_s"] >= 0


def test_a_failing_tracker_costs_nothing_and_the_others_have_every_metric(runs: Path) -> None:
    """TensorBoard's and MLflow's own files hold what ``metrics.jsonl`` holds."""
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runs / "whole"
    notes = read_notes(run / "tracking.json")
    assert {name: note["state"] for name, note in notes.items()} == {
        "tensorboard": "on",
        "mlflow": "on",
        FAILING: "failed",
    }
    assert "failed at step 1 and was left out" in (run / "report.html").read_text()
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    kept = notes["mlflow"]["kept"]
    client = MlflowClient(tracking_uri=kept["uri"])
    first, *_, last = read_metrics(run / "metrics.jsonl")
    for name, value in last.items():
        if name in {"step", "wall_time_s"} or value is None:
            continue
        assert events.Scalars(name)[-1].value == pytest.approx(value, rel=1e-5)
        history = {one.step: one.value for one in client.get_metric_history(kept["run_id"], name)}
        assert history[last["step"]] == pytest.approx(value, rel=1e-9)
    name = "reward/total/mean"
    assert [one.value for one in events.Scalars(name)] == pytest.approx([first[name], last[name]])


def test_the_timeline_accounts_for_every_step_and_the_status_says_how_it_ended(runs: Path) -> None:
    by_worker = spans_of(json.loads((runs / "whole" / "timeline.json").read_text()))
    steps = [one for one in by_worker["driver"] if one.name == "step"]
    assert [one.details["step"] for one in steps] == list(range(NUM_STEPS))
    for step in steps:
        others = [one for spans in by_worker.values() for one in spans if one.name != "step"]
        assert covered_frac(step, others) > 0.95
    done = {worker: {one.name for one in spans} for worker, spans in by_worker.items()}
    assert {"collect", "update", "publish", "log", "after step"} <= done["driver"]
    assert {"write", "load weights", "canary"} <= done["rollout-text-0"]
    assert {"paint", "load weights", "canary"} <= done["rollout-image-0"]
    assert "score" in done["reward-generation-0"]
    assert {"update", "optimizer step", "publish", "score the canary"} <= done["learner-text-0"]
    assert vlcot("status", str(runs / "whole")).startswith(
        f"whole  finished  {NUM_STEPS} of {NUM_STEPS} steps"
    )


def test_the_evaluation_pairs_three_rows(runs: Path) -> None:
    rows = json.loads((runs / "whole" / "eval.json").read_text())["rows"]
    assert set(rows) == {"bicubic", "coldstart", "grpo"}
    assert set(rows["grpo"]) == {
        "total",
        "format",
        "degradation",
        "understanding",
        "generation",
        "psnr",
        "ssim",
    }
    assert all({"mean", "interval"} <= set(cell) for row in rows.values() for cell in row.values())


def test_the_report_is_one_file_with_pictures(runs: Path) -> None:
    page = (runs / "whole" / "report.html").read_text()
    assert "data:image/" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_run_is_not_written_over(runs: Path) -> None:
    said = vlcot("train", "tiny", f"output_dir={runs}", "name=whole", expect=2)
    assert said.strip().splitlines()[-1].startswith("vlcot: error: ")
    assert "resume=true" in said


def test_a_folder_that_shadows_a_package_is_named(runs: Path, tmp_path: Path) -> None:
    """Ray's workers look into the working directory first; the driver does not."""
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "__init__.py").touch()
    said = vlcot("eval", str(runs / "whole"), expect=2, cwd=tmp_path)
    assert f"package 'rewards' is imported from {tmp_path / 'rewards'}" in said


def test_a_stopped_run_goes_on_to_the_same_numbers(runs: Path) -> None:
    """As if it had been killed after step 1, when step 2 was written but not its checkpoint."""
    shutil.copytree(runs / "whole", runs / "stopped")
    newest = sorted((runs / "stopped" / "checkpoints").iterdir())[-1]
    (newest / "state.json").unlink()
    vlcot("train", str(runs / "stopped"))
    whole, resumed = (read_metrics(runs / name / "metrics.jsonl") for name in ("whole", "stopped"))
    assert len(whole) == len(resumed) == NUM_STEPS
    assert [numbers(record) for record in whole] == [numbers(record) for record in resumed]
    before, after = (json.loads((runs / name / "eval.json").read_text()) for name in ("whole", "stopped"))
    assert before["rows"] == after["rows"]


def test_two_sharded_ranks_learn_what_one_learns(runs: Path) -> None:
    """ZeRO stage 3 for text and 2 for pictures, two ranks each, from the same cold start."""
    (start,) = runs.glob("coldstart-*")
    ranks = ["policies.text.num_ranks=2", "policies.text.zero_stage=3", "policies.image.num_ranks=2"]
    settings = [f"output_dir={runs}", "name=ranks", f"coldstart.directory={start}", "eval.num_prompts=2"]
    vlcot("train", "tiny", *settings, *ranks, f"num_steps={NUM_STEPS}")
    one, two = (read_metrics(runs / name / "metrics.jsonl") for name in ("whole", "ranks"))
    for before, after in zip(one, two, strict=True):
        assert after["reward/total/mean"] == pytest.approx(before["reward/total/mean"], abs=1e-4)
        for policy in ("text", "image"):
            assert after[f"loss/{policy}/total"] == pytest.approx(before[f"loss/{policy}/total"], abs=1e-5)
            norm = f"learner/{policy}/grad_norm"
            assert after[norm] == pytest.approx(before[norm], rel=1e-3)


def test_a_users_own_package_is_a_reward_of_a_config_from_outside(runs: Path, tmp_path: Path) -> None:
    """The recipe of docs/rewards.md to its end: one step of GRPO from the same cold start."""
    config = own_package.write_recipe(tmp_path, base="tiny")
    python = own_package.install(tmp_path / "shiny", tmp_path / "venv")
    (start,) = runs.glob("coldstart-*")
    settings = [f"output_dir={tmp_path}", "name=own", f"coldstart.directory={start}", "num_steps=1"]
    vlcot("train", str(config), *settings, "eval.num_prompts=2", cwd=tmp_path, python=python)
    (record,) = read_metrics(tmp_path / "own" / "metrics.jsonl")
    for reward in ("contrast", "brevity"):
        assert 0 <= record[f"reward/{reward}/mean"] <= 1
        assert record[f"reward/{reward}/invalid_frac"] == 0


def test_exports_load_with_the_plain_libraries(runs: Path) -> None:
    from rl.torchvision_compat import ensure_torchvision

    ensure_torchvision()
    from diffusers import DiffusionPipeline
    from transformers import AutoModelForImageTextToText, AutoProcessor

    newest = sorted((runs / "whole" / "checkpoints").iterdir())[-1]
    text = newest / "text" / "model"
    assert AutoModelForImageTextToText.from_pretrained(text).config.model_type == "qwen2_5_vl"
    assert AutoProcessor.from_pretrained(text).tokenizer is not None
    image = str(newest / "image" / "model")
    pipeline = DiffusionPipeline.from_pretrained(image, custom_pipeline=image, trust_remote_code=True)
    degraded = np.full((16, 16, 3), 90, dtype=np.uint8)
    assert pipeline(degraded, prompt="a cat", size_px=32).shape == (32, 32, 3)


def test_restore_takes_any_size_and_mode(runs: Path, tmp_path: Path) -> None:
    photo = load_photo()
    rotated = Image.Exif()
    rotated[0x0112] = 6
    Image.fromarray(photo[:40, :24]).save(tmp_path / "rotated.jpg", exif=rotated)
    Image.fromarray(photo[:16, :16]).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(photo[:33, :70]).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(photo[:20, :20, 0].astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    out = tmp_path / "out"
    vlcot("restore", str(runs / "whole"), str(tmp_path), "--out", str(out))
    for name, (height, width) in {
        "rotated": (24, 40),
        "grey": (16, 16),
        "alpha": (33, 70),
        "sixteen": (20, 20),
    }.items():
        restored = load_picture(out / f"{name}.png")
        assert restored.shape == (4 * height, 4 * width, 3)
        small = load_picture(next(p for p in tmp_path.iterdir() if p.stem == name))
        gap = np.abs(resize(restored, height, width).astype(float) - small)
        assert gap.mean() < 25, "it is no longer the same photograph"
        record = json.loads((out / f"{name}.json").read_text())
        assert set(block_texts(record["text"])) == set(record["block_text"])


def test_a_search_goes_on_after_sigkill_and_its_trials_are_plain_runs(runs: Path) -> None:
    """Trial 0 tries the configuration's own values: it is ``whole`` over again, to the last bit."""
    (start,) = runs.glob("coldstart-*")
    key = "policies.text.learning_rate"
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

    said = vlcot("search", str(runs / "searched"))
    assert book.read(0) == first
    assert (book.path(0) / "metrics.jsonl").stat().st_mtime_ns == written, "it is not run again"
    assert book.read(1).state == "finished"
    assert "trial-000" in said
    best = runs / "searched" / "best"
    values = {trial.name: trial.last for trial in book.all()}
    winner = json.loads((runs / "searched" / "search.json").read_text())["best"]
    assert values[winner] == max(values.values())
    assert ": fine" in vlcot("check", str(best), f"num_steps={NUM_STEPS + 1}")
    assert [record["step"] for record in read_metrics(best / "metrics.jsonl")] == list(range(NUM_STEPS))


def test_what_a_cold_start_cannot_do_costs_one_line(tmp_path: Path) -> None:
    """The error is raised in a Ray Train worker, and arrives as it is."""
    settings = [f"output_dir={tmp_path}", "chain.degradation.max_tokens=10"]
    said = vlcot("coldstart", "tiny", *settings, expect=2)
    assert "raise chain.degradation.max_tokens (now 10)" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*/coldstart.json"))


def test_ctrl_c_ends_a_cold_start_at_once(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cluster.cli", "coldstart", "tiny", f"output_dir={tmp_path}"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("start Ray") for line in process.stdout)
        time.sleep(5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert not list(tmp_path.glob("*/coldstart.json"))


def load_photo() -> np.ndarray:  # type: ignore[type-arg]
    from skimage import data

    return np.asarray(data.coffee()[::8, ::6])


def test_eval_measures_the_newest_weights(runs: Path) -> None:
    shutil.copytree(runs / "whole", runs / "again")
    vlcot("eval", str(runs / "again"))
    rows = {n: json.loads((runs / n / "eval.json").read_text())["rows"]["grpo"] for n in ("whole", "again")}
    assert rows["again"]["psnr"]["mean"] == pytest.approx(rows["whole"]["psnr"]["mean"], abs=1e-3)


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


def test_a_run_joins_a_cluster_and_goes_on_elsewhere_from_its_storage(
    runs: Path, tmp_path: Path, cluster: str
) -> None:
    """A job's command on a running cluster; then a fresh folder resumes from what was copied, to the same numbers."""
    storage = f"storage_path=file://{tmp_path}/far"
    said = vlcot(
        "train", "tiny", f"output_dir={runs}", "name=joined", "num_steps=1", storage, "--address", cluster
    )
    assert "report:" in said
    fresh = tmp_path / "fresh"
    vlcot(
        "train",
        "tiny",
        f"output_dir={fresh}",
        "name=joined",
        f"num_steps={NUM_STEPS}",
        storage,
        "resume=true",
    )
    assert (tmp_path / "far" / "joined" / "checkpoints" / "step_000002" / "state.json").is_file()
    pairs = [read_metrics(folder / "metrics.jsonl") for folder in (runs / "whole", fresh / "joined")]
    whole, joined = ([trained(record) for record in records] for records in pairs)
    assert joined == whole


def trained(record: JsonDict) -> JsonDict:
    """What a step did; the first attempt was also evaluated at its end."""
    return {name: value for name, value in numbers(record).items() if not name.startswith("eval/")}


def test_adapters_are_trained_and_sent_by_broadcast(runs: Path) -> None:
    """Adapters of both policies, gloo, a reference, and a resumed run, on the same cold start."""
    words = [f"output_dir={runs}", "name=adapters", "save_every=1"]
    for policy in ("text", "image"):
        words += [f"policies.{policy}.lora=adapter", f"policies.{policy}.transport=gloo"]
    vlcot("train", "tiny", *words, "policies.text.kl_weight=0.01", "num_steps=1")
    vlcot("train", str(runs / "adapters"), "num_steps=2", "resume=true")
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
