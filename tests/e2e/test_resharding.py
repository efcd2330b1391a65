"""A run that is resumed with another number of learner ranks: the same weights, and it goes on as if nothing was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cluster.record.sinks import read_metrics
from tests.reference.command import vlcot

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

SETTINGS = (
    *("deterministic=true", "prompts_per_step=4", "group_size=4", "save_every=1", "keep_checkpoints=3"),
    *("eval.num_prompts=4", "eval.samples=0", "coldstart.text_steps=30"),
    # So untaught a model is never right: something that any answers differ in.
    "rewards.variety.target=tests.reference.rewards:variety",
    "policies.text.learner.zero_stage=2",
)
RANKS = (1, 2, 1)
"""Of the learner, step by step."""


def test_one_rank_then_two_then_one_train_what_one_does(tmp_path: Path) -> None:
    words = ("train", "arithmetic", f"output_dir={tmp_path}", *SETTINGS)
    vlcot(*words, "name=whole", f"num_steps={len(RANKS)}")
    (start,) = tmp_path.glob("coldstart-*")
    for step, ranks in enumerate(RANKS, start=1):
        resharded = (f"policies.text.learner.num_ranks={ranks}", f"coldstart.directory={start}")
        vlcot(*words, "name=resharded", *resharded, f"num_steps={step}", f"resume={step > 1}".lower())
    whole, resharded = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "resharded"))
    assert [record["step"] for record in resharded] == list(range(len(RANKS)))
    for before, after in zip(whole, resharded, strict=True):
        assert after["weights/text/version"] == before["weights/text/version"]
        assert after["weights/text/canary_nats/max"] < 1e-4
        assert after["policy/text/ratio_before_update/max_dev"] < 1e-4
        assert after["reward/total/mean"] == before["reward/total/mean"], (
            "the same weights, so the same answers"
        )
        assert after["loss/text/total"] == pytest.approx(before["loss/text/total"], abs=1e-5)
        norm = "learner/text/grad_norm"
        assert after[norm] == pytest.approx(before[norm], rel=1e-3)
        assert after[norm] > 0
    one, many = (weights(tmp_path / name, len(RANKS)) for name in ("whole", "resharded"))
    first = weights(tmp_path / "whole", 1)
    assert many.keys() == one.keys()
    for name, array in one.items():
        moved = np.abs(array - first[name]).max()
        np.testing.assert_allclose(many[name], array, rtol=0, atol=max(0.01 * moved, 1e-6), err_msg=name)


def weights(run: Path, step: int) -> dict[str, np.ndarray]:
    """The policy as a checkpoint exports it."""
    return load_file(run / "checkpoints" / f"step_{step:06d}" / "text" / "model" / "model.safetensors")
