"""One model writes words and picture codes of the whole chain: made from nothing, trained, resumed, restored with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from actors.policies.unified.codec import load_codec
from actors.policies.unified.vocabulary import load_unified_vocabulary
from cluster.record.sinks import read_metrics
from configs.load import load_config
from rl.compat.torchvision import ensure_torchvision
from rl.data.images import load_picture
from tests.reference.command import vlcot

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

SETTINGS = (
    "prompts_per_step=2",
    "group_size=4",
    "save_every=1",
    "coldstart.num_examples=24",
    "coldstart.codec_steps=4",
    "coldstart.text_steps=120",
    "coldstart.text_batch_size=4",
    "coldstart.text_learning_rate=3e-3",
    "coldstart.num_workers=1",
    "chain.rough_image.size_px=8",
    "chain.middle_image.size_px=16",
    "chain.final_image.size_px=32",
    "coldstart.expert_steps=0",
    "rewards.generation=null",
    # Something that any answers differ in, so that every step has an update.
    "rewards.variety.target=tests.reference.rewards:variety",
    "eval.num_prompts=2",
    "eval.metrics=[psnr]",
)

ADAPTED = (
    "policies.unified.rollout.guidance_scale=0.8",
    "policies.unified.learner.lora={kind: adapter, rank: 4, alpha: 8}",
)


def test_a_unified_policy_is_made_and_trained(tmp_path: Path) -> None:
    vlcot("train", "unified", f"output_dir={tmp_path}", *SETTINGS, "num_steps=2")
    _check_run(tmp_path / "unified")


@pytest.mark.long
@pytest.mark.parametrize("stage", [2, 3])
def test_a_unified_policy_is_sharded_over_ranks_and_its_engine_over_processes(
    stage: int, tmp_path: Path
) -> None:
    sharded = (
        f"policies.unified.learner.zero_stage={stage}",
        "policies.unified.learner.num_ranks=2",
        "policies.unified.rollout.tensor_parallel=2",
    )
    vlcot("train", "unified", f"output_dir={tmp_path}", *SETTINGS, *sharded, "num_steps=2")
    _check_run(tmp_path / "unified")


@pytest.mark.long
def test_a_unified_policy_with_guidance_and_adapters_is_resumed_and_restores(tmp_path: Path) -> None:
    run, words = tmp_path / "unified", ("train", "unified", f"output_dir={tmp_path}", *SETTINGS, *ADAPTED)
    vlcot(*words, "num_steps=1")
    vlcot(*words, "num_steps=2", "resume=true")
    _check_run(run)
    photo = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    vlcot("restore", str(run), str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"))
    assert load_picture(tmp_path / "out" / "photo.png").shape == (80, 112, 3)
    assert json.loads((tmp_path / "out" / "photo.json").read_text())["text"]


def _check_run(run: Path) -> None:
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1]
    for record in records:
        assert record["policy/unified/ratio_before_update/mean_dev"] < 1e-5
        assert record["policy/unified/ratio_before_update/max_dev"] < 1e-4
        assert record["weights/unified/canary_nats/max"] < 1e-4
        assert record["learner/unified/grad_norm"] > 0
    rows = json.loads((run / "eval.json").read_text())["rows"]
    assert {"start", "now", "bicubic", "round trip"} == set(rows)
    assert rows["round trip"]["psnr"]["mean"] > 15
    assert "data:image/png;base64," in (run / "report.html").read_text()
    _check_export(run / "checkpoints" / "step_000002" / "unified" / "model")


def _check_export(model: Path) -> None:
    """Plain transformers opens it, and its picture tokenizer is with it."""
    ensure_torchvision()
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model)
    vocabulary = load_unified_vocabulary(model, tuple(load_config("unified").chain))
    assert net.config.vocab_size == vocabulary.masks.shape[1]
    assert load_codec(model, torch.device("cpu")).num_codes == len(vocabulary.pictures.code_ids)
