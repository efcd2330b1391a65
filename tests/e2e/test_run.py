"""The command line as a user has it, with every engine real: train, stop, resume, evaluate, restore."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.record.recorder import block_texts
from cluster.record.run_files import read_evaluation, read_notes
from cluster.record.sinks import read_metrics
from cluster.record.timeline import covered_frac, spans_of
from rl.data.images import load_picture, resize
from tests.reference import own_package
from tests.reference.command import FAILING, INTERRUPTIBLE, NUM_STEPS, ROOT, interrupt, vlcot
from tests.reference.extensions import write_extensions

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
    assert set(rows) == {"bicubic", "start", "now"}
    assert set(rows["now"]) == {
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


def test_a_users_own_package_and_one_of_each_extension_fit_a_run_from_outside(
    runs: Path, tmp_path: Path
) -> None:
    """The recipe of docs/rewards.md to its end, with six more things of one's own: one step of GRPO.

    Each is a file outside the checkout and a line of configuration: a reward, a surrogate, a baseline, a sampler, a
    tracker, a source of prompts, a model family.
    """
    config = own_package.write_recipe(tmp_path, base="tiny")
    python = own_package.install(tmp_path / "shiny", tmp_path / "venv")
    newest = sorted((runs / "whole" / "checkpoints").iterdir())[-1]
    (start,) = runs.glob("coldstart-*")
    settings = [f"output_dir={tmp_path}", "name=own", f"coldstart.directory={start}", "num_steps=1"]
    settings += [f"policies.{name}.source={newest / name / 'model'}" for name in ("text", "image")]
    settings += [*write_extensions(tmp_path / "mine"), "eval.num_prompts=2"]
    vlcot("train", str(config), *settings, cwd=tmp_path, python=python)
    (record,) = read_metrics(tmp_path / "own" / "metrics.jsonl")
    for reward in ("contrast", "brevity", "shortness"):
        assert 0 <= record[f"reward/{reward}/mean"] <= 1
        assert record[f"reward/{reward}/invalid_frac"] == 0
    for policy in ("text", "image"):
        assert record[f"policy/{policy}/ratio_before_update/max_dev"] < 1e-4
    lines = (tmp_path / "own" / "lines.txt").read_text()
    assert lines.startswith(f"0 {record['reward/shortness/mean']}")
    assert set(json.loads((tmp_path / "own" / "eval.json").read_text())["prompts"]) == {
        "gradient/held-out/1000000",
        "gradient/held-out/1000001",
    }


PLAIN = """
import sys
import numpy as np
from diffusers import DiffusionPipeline
from transformers import AutoModelForImageTextToText, AutoProcessor
_, text, image = sys.argv
print(AutoModelForImageTextToText.from_pretrained(text).config.model_type)
print(AutoProcessor.from_pretrained(text).tokenizer is not None)
pipeline = DiffusionPipeline.from_pretrained(image, custom_pipeline=image, trust_remote_code=True)
print(pipeline(np.full((16, 16, 3), 90, dtype=np.uint8), prompt="a cat", height=32, width=32).images[0].size)
assert not [name for name in sys.modules if name.partition(".")[0] in ("actors", "cluster", "rewards", "configs")]
"""


def test_exports_load_with_the_plain_libraries(runs: Path, tmp_path: Path) -> None:
    """In a bare interpreter: this one has had torchvision prepared by whoever imported pyiqa or vLLM."""
    newest = sorted((runs / "whole" / "checkpoints").iterdir())[-1]
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(newest / "text" / "model"), str(newest / "image" / "model")],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["qwen2_5_vl", "True", "(32,", "32)"]


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


def test_what_a_cold_start_cannot_do_costs_one_line(tmp_path: Path) -> None:
    """The error is raised in a Ray Train worker, and arrives as it is."""
    settings = [f"output_dir={tmp_path}", "chain.degradation.max_tokens=10"]
    said = vlcot("coldstart", "tiny", *settings, expect=2)
    assert "raise chain.degradation.max_tokens (now 10)" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*/coldstart.json"))


def test_ctrl_c_ends_a_cold_start_at_once(tmp_path: Path) -> None:
    words = [*INTERRUPTIBLE, sys.executable, "-m", "cluster.cli", "coldstart"]
    words += ["tiny", f"output_dir={tmp_path}"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("start Ray") for line in process.stdout)
        time.sleep(5)
        interrupt(process)
        assert process.returncode == 130
    assert not list(tmp_path.glob("*/coldstart.json"))


def load_photo() -> np.ndarray:  # type: ignore[type-arg]
    from skimage import data

    return np.asarray(data.coffee()[::8, ::6])


def test_eval_measures_the_newest_weights_with_the_runs_own_expert(runs: Path, tmp_path: Path) -> None:
    """Moved away from its cold start, and the state of the newest checkpoint's save cut by a loss of power."""
    shutil.copytree(runs / "whole", tmp_path / "again")
    (tmp_path / "again" / "checkpoints" / "step_000099").mkdir()
    (tmp_path / "again" / "checkpoints" / "step_000099" / "state.json").touch()
    said = vlcot("eval", str(tmp_path / "again"), "eval.samples=2")
    assert "state.json: damaged: it is empty; this checkpoint is passed over" in said
    assert [path.name for path in tmp_path.iterdir()] == ["again"], "another cold start was made"
    whole, again = (read_evaluation(run / "eval.json") for run in (runs / "whole", tmp_path / "again"))
    for metric in ("psnr", "generation"):
        mean = whole["rows"]["now"][metric]["mean"]
        assert again["rows"]["now"][metric]["mean"] == pytest.approx(mean, abs=1e-3)
    assert again["rows"]["start"] == whole["rows"]["start"]
    assert again["drawn"]["num_samples"] == 2
    assert set(again["drawn"]["rows"]) == {"bicubic", "now"}
    assert set(again["drawn"]["rows"]["now"]) == set(again["rows"]["now"])
    assert "2 answers each" in " ".join(said.split())
