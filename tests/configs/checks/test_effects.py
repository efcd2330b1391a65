"""Keys that are set and read by nothing: each is named with its reason, and a shipped configuration has none."""

from __future__ import annotations

import pytest

from configs.checks.effects import idle_keys
from configs.load import load_config, shipped_names


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_configuration_sets_nothing_in_vain(name: str) -> None:
    assert idle_keys(load_config(name)) == {}


@pytest.mark.parametrize(
    ("config", "settings", "key"),
    [
        ("tiny", ["policies.text.loss.kl_estimator=k1"], "policies.text.loss.kl_estimator"),
        (
            "tiny",
            ["policies.image.learner.offload_optimizer=true"],
            "policies.image.learner.offload_optimizer",
        ),
        ("tiny", ["advantage.over=actions"], "advantage.over"),
        ("tiny", ["advantage.scale=none", "advantage.eps=0.01"], "advantage.eps"),
        ("demo", ["advantage.credit=chain"], "rewards.generation.blocks"),
        ("tiny", ["coldstart.codec_steps=7"], "coldstart.codec_steps"),
        ("arithmetic", ["coldstart.image_batch_size=7"], "coldstart.image_batch_size"),
        ("arithmetic", ["coldstart.expert_steps=7"], "coldstart.expert_steps"),
        ("text_to_image", ["coldstart.text_steps=7"], "coldstart.text_steps"),
        ("text_to_image", ["eval.samples=1"], "eval.samples"),
        ("arithmetic", ["eval.samplers=[stochastic]"], "eval.samplers"),
        ("arithmetic", ["data.held_out=other.jsonl"], "data.holdout_frac"),
    ],
)
def test_a_key_without_an_effect_is_named(config: str, settings: list[str], key: str) -> None:
    assert idle_keys(load_config(config, settings)).keys() == {key}


@pytest.mark.parametrize(
    "settings",
    [
        ["policies.text.loss.kl_estimator=k1", "policies.text.loss.kl_weight=0.1"],
        ["advantage.over=actions", "advantage.whiten=true"],
        ["advantage.scale=none", "advantage.eps=0.01", "advantage.whiten=true"],
    ],
)
def test_one_with_an_effect_is_not(settings: list[str]) -> None:
    assert idle_keys(load_config("tiny", settings)) == {}
