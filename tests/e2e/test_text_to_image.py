"""A painter and a table of prompts, end to end: cold start, two steps, evaluated, exported; not square."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.record.sinks import read_metrics
from rl.compat.torchvision import ensure_torchvision
from rl.data.images import load_picture
from rl.data.regions import parse_regions, region_map
from tests.reference.command import vlcot

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

SETTINGS = (
    "prompts_per_step=2",
    "group_size=4",
    "save_every=1",
    "chain.picture.height_px=16",
    "chain.picture.num_steps=3",
    "policies.image.rollout.trained_steps.count=2",
    "coldstart.num_examples=64",
    "coldstart.image_steps=20",
    "eval.num_prompts=4",
)


def test_a_painter_is_made_trained_and_exported(tmp_path: Path) -> None:
    run, words = tmp_path / "text_to_image", ("train", "text_to_image", f"output_dir={tmp_path}", *SETTINGS)
    vlcot(*words, "num_steps=2")
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1]
    for record in records:
        assert record["policy/image/ratio_before_update/max_dev"] < 1e-4
        assert record["weights/image/canary_nats/max"] < 1e-4
        assert record["learner/image/grad_norm"] > 0
        assert 0 < record["reward/layout/mean"] < 1
    for file in ("eval.json", "eval_stochastic.json"):
        rows = json.loads((run / file).read_text())["rows"]
        assert {name: set(row) for name, row in rows.items()} == {
            "start": {"total", "layout"},
            "now": {"total", "layout"},
        }
    _check_report(run)
    _check_export(run / "checkpoints" / "step_000002" / "image" / "model")
    refusal = vlcot(
        "restore", str(run), str(next(run.rglob("*.png"))), "--out", str(tmp_path / "x"), expect=2
    )
    assert refusal.splitlines()[-1].startswith("vlcot: error: text_to_image answers prompts")


def _check_report(run: Path) -> None:
    """Prompts and pictures of recorded chains are in it, pictures as wide and high as configured."""
    report = (run / "report.html").read_text()
    chains = [json.loads(file.read_text()) for file in (run / "chains").rglob("chain.json")]
    asked = {chain["prompt"]["messages"][0]["content"][0]["text"] for chain in chains}
    assert asked
    assert any(text in report for text in asked)
    assert "data:image/png;base64," in report
    assert {load_picture(file).shape for file in (run / "chains").rglob("picture.png")} == {(16, 32, 3)}
    for chain in chains:
        seen = region_map(parse_regions(chain["prompt"]["reference"]["regions"]), 16, 32)
        assert set(np.unique(seen)) == {0, 1}


def _check_export(model: Path) -> None:
    """Plain diffusers paints with it."""
    ensure_torchvision()
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(
        "red above blue", height=32, width=32, num_inference_steps=2, guidance_scale=1, max_sequence_length=12
    ).images[0]
    assert picture.size == (32, 32)
    assert np.asarray(picture).std() > 1
