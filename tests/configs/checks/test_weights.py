"""Adapters and transports in a configuration: what is said of them, and what is refused in one line."""

from __future__ import annotations

import pytest

from configs.checks.validate import validate
from configs.errors import ConfigError
from configs.load import load_config
from configs.methods import Adapter, FullWeights


def test_adapters_take_a_name_or_a_mapping():
    config = load_config("tiny")
    assert isinstance(config.policies["text"].learner.lora, FullWeights)
    assert config.policies["text"].rollout.transport == "object_store"
    words = [
        "policies.text.learner.lora=adapter",
        "policies.image.learner.lora={kind: adapter, rank: 4, targets: [to_q]}",
    ]
    config = load_config("tiny", [*words, "policies.text.learner.lora.alpha=8"])
    validate(config)
    assert config.policies["text"].learner.lora == Adapter(alpha=8.0)
    assert config.policies["image"].learner.lora == Adapter(rank=4, targets=["to_q"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["policies.text.rollout.transport=nccl"],
            r"policies\.text\.rollout\.transport: nccl moves GPU memory.*use object_store",
        ),
        (
            ["policies.image.rollout.transport=ipc"],
            r"policies\.image\.rollout\.transport: ipc moves GPU memory",
        ),
        (
            ["policies.text.rollout.transport=nccl", "policies.text.num_gpus=0.5"],
            r"policies\.text\.rollout\.transport: two members .* cannot share a GPU.*num_gpus is 0\.5; use ipc",
        ),
        (
            ["policies.text.rollout.transport=glo"],
            r"policies\.text\.rollout\.transport: want one of object_store, gloo",
        ),
        (
            ["policies.text.learner.lora=adaptor"],
            r"policies\.text\.learner\.lora: want one of none, adapter.*did you mean adapter",
        ),
        (
            ["policies.text.learner.lora={kind: adapter, rank: 0}"],
            r"policies\.text\.learner\.lora\.rank: want at least 1",
        ),
        (
            ["policies.text.learner.lora={kind: adapter, alpha: 0}"],
            r"policies\.text\.learner\.lora\.alpha: want above 0",
        ),
        (
            ["policies.text.learner.lora={kind: adapter, targets: ['']}"],
            r"policies\.text\.learner\.lora\.targets: want names",
        ),
        (
            ["policies.text.learner.lora={kind: adapter, targets: q}"],
            r"policies\.text\.learner\.lora\.targets: want a list",
        ),
        (
            ["policies.text.learner.lora.rank=8"],
            r"policies\.text\.learner\.lora\.rank: .* none; adapter has it: set "
            r"policies\.text\.learner\.lora\.kind=adapter",
        ),
    ],
)
def test_what_cannot_be_is_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as caught:
        validate(load_config("tiny", words))
    assert "\n" not in str(caught.value)


def test_memory_of_gpus_travels_between_gpus():
    for kind in ("ipc", "nccl"):
        validate(load_config("tiny", [f"policies.text.rollout.transport={kind}", "policies.text.num_gpus=1"]))
