"""A stock diffusers pipeline as the painter of the seven-block chain: trained, resumed, restored with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.record.sinks import read_metrics
from rl.data.images import load_picture
from tests.reference.command import vlcot
from tests.reference.pipelines import build_pipeline

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

CALL = "{image: {from: [previous, degraded], share: 0.25}, guidance_scale: 3.0, noise_level: 20}"
"""The degraded photo for the first picture, the picture before for the others, at a quarter of the painted size."""


def test_an_upscaler_paints_the_chains_pictures(runs: Path, tmp_path: Path) -> None:
    build_pipeline("stable_diffusion_upscale", tmp_path / "upscaler")
    (start,) = runs.glob("coldstart-*")
    settings = (
        f"output_dir={tmp_path}",
        "name=upscaled",
        f"policies.text.source={start / 'text'}",
        f"policies.image.source={tmp_path / 'upscaler'}",
        f"policies.image.call={CALL}",
        "policies.image.rollout.sampler=ddim",
        "policies.image.learner.lora={kind: adapter, rank: 4, alpha: 8}",
        f"rewards.generation.options.experts.cnniqa.weights={start / 'expert' / 'expert.pth'}",
    )
    run = tmp_path / "upscaled"
    vlcot("train", "tiny", *settings, "num_steps=1", "save_every=1", "eval.every=0")
    vlcot("train", str(run), "num_steps=2")
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1]
    for record in records:
        assert record["policy/image/ratio_before_update/mean_dev"] < 1e-5
        assert record["weights/image/canary_nats/max"] < 1e-4
        assert record["learner/image/grad_norm"] > 0
    assert (run / "checkpoints" / "step_000002" / "image" / "adapter" / "adapter_model.safetensors").is_file()

    photo = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    vlcot("restore", str(run), str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"))
    assert load_picture(tmp_path / "out" / "photo.png").shape == (80, 112, 3)
