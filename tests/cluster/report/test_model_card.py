"""Model cards: what they say, and that the hub's own reader takes them."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from cluster.report.model_card import write_model_cards
from configs.load import load_config
from rl.measure.statistics import summarise_eval

EVALUATION = summarise_eval(
    ["a", "b", "c"],
    {
        "start": {"total": [0.0, 0.5, 1.0], "correct": [0.0, 0.5, 1.0]},
        "now": {"total": [1.0, 0.5, 1.0], "correct": [1.0, 0.5, 1.0]},
    },
)


def test_a_card_names_base_method_rewards_results_and_licence(tmp_path: Path) -> None:
    folder = tmp_path / "text" / "model"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# The base model's own\n")
    config = load_config("arithmetic", ["policies.text.source=Qwen/Qwen3-0.6B", "algorithm=dapo"])
    (card,) = write_model_cards(config, tmp_path, EVALUATION, model_folder="model")
    read = ModelCard.load(card)
    assert (read.data.base_model, read.data.license, read.data.library_name) == (
        "Qwen/Qwen3-0.6B",
        "apache-2.0",
        "transformers",
    )
    assert {(r.metric_type, r.metric_value) for r in read.data.eval_results} == {
        ("total", 0.8333),
        ("correct", 0.8333),
    }
    for said in (
        "`Qwen/Qwen3-0.6B`",
        "dapo",
        "| correct | `rewards.exact_match:exact_match` | 1 |",
        "now - start",
    ):
        assert said in read.text
    assert "The base model's own" not in read.text


def test_a_policy_from_nothing_has_neither_base_nor_licence(tmp_path: Path) -> None:
    (tmp_path / "image" / "model").mkdir(parents=True)
    (card,) = write_model_cards(load_config("demo"), tmp_path, EVALUATION, model_folder="model")
    read = ModelCard.load(card)
    assert (read.data.base_model, read.data.license, read.data.library_name) == (None, None, "diffusers")
    assert "a small model made from nothing" in read.text
