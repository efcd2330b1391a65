"""A language model and a file of questions, end to end: cold start, two steps, evaluation, report, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.record.sinks import read_metrics
from rl.compat.torchvision import ensure_torchvision
from tests.reference.command import vlcot

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]


def test_a_language_model_learns_from_a_file(tmp_path: Path) -> None:
    settings = [
        "num_steps=2",
        "prompts_per_step=4",
        "group_size=4",
        "eval.num_prompts=8",
        "coldstart.text_steps=30",
        # So untaught a model is never right: something that any answers differ in.
        "rewards.variety.target=tests.reference.rewards:variety",
    ]
    vlcot("train", "arithmetic", f"output_dir={tmp_path}", *settings)
    run = tmp_path / "arithmetic"
    for record in read_metrics(run / "metrics.jsonl")[:2]:
        assert record["policy/text/ratio_before_update/mean_dev"] < 1e-5
        assert record["policy/text/ratio_before_update/max_dev"] < 1e-4
        assert record["weights/text/canary_nats/max"] < 1e-4
        assert 0 <= record["reward/correct/mean"] <= 1
    rows = json.loads((run / "eval.json").read_text())["rows"]
    assert {name: set(row) for name, row in rows.items()} == {
        "start": {"total", "correct", "variety"},
        "now": {"total", "correct", "variety"},
    }
    ensure_torchvision()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = run / "checkpoints" / "step_000002" / "text" / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    inputs = tokenizer("1+2=", return_tensors="pt")
    assert AutoModelForCausalLM.from_pretrained(model).generate(**inputs, max_new_tokens=2).shape[1] <= 8
    chain = json.loads(next((run / "chains").rglob("chain.json")).read_text())
    question = chain["prompt"]["messages"][0]["content"][0]["text"]
    assert question.endswith("=")
    assert question in (run / "report.html").read_text()
