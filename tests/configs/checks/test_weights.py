"""Adapters and transports in a configuration: what is said of them, and what is refused in one line."""

from __future__ import annotations

import pytest

from configs.checks.validate import validate
from configs.errors import ConfigError
from configs.load import load_config
from configs.methods import Adapter, FullWeights


def test_adapters_take_a_name_or_a_mapping():
    config = load_config("tiny")
    assert isinstance(config.policies["text"].lora, FullWeights)
    assert config.policies["text"].transport == "object_store"
    words = ["policies.text.lora=adapter", "policies.image.lora={kind: adapter, rank: 4, targets: [to_q]}"]
    config = load_config("tiny", [*words, "policies.text.lora.alpha=8"])
    validate(config)
    assert config.policies["text"].lora == Adapter(alpha=8.0)
    assert config.policies["image"].lora == Adapter(rank=4, targets=["to_q"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["policies.text.transport=nccl"],
            r"policies\.text\.transport: nccl moves GPU memory.*use object_store",
        ),
        (["policies.image.transport=ipc"], r"policies\.image\.transport: ipc moves GPU memory"),
        (
            ["policies.text.transport=nccl", "policies.text.num_gpus=0.5"],
            r"policies\.text\.transport: two members .* cannot share a GPU.*num_gpus is 0\.5; use ipc",
        ),
        (["policies.text.transport=glo"], r"policies\.text\.transport: want one of object_store, gloo"),
        (
            ["policies.text.lora=adaptor"],
            r"policies\.text\.lora: want one of none, adapter.*did you mean adapter",
        ),
        (["policies.text.lora={kind: adapter, rank: 0}"], r"policies\.text\.lora\.rank: want at least 1"),
        (["policies.text.lora={kind: adapter, alpha: 0}"], r"policies\.text\.lora\.alpha: want above 0"),
        (["policies.text.lora={kind: adapter, targets: ['']}"], r"policies\.text\.lora\.targets: want names"),
        (["policies.text.lora={kind: adapter, targets: q}"], r"policies\.text\.lora\.targets: want a list"),
        (
            ["policies.text.lora.rank=8"],
            r"policies\.text\.lora\.rank: .* none; adapter has it: set policies\.text\.lora\.kind=adapter",
        ),
    ],
)
def test_what_cannot_be_is_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as caught:
        validate(load_config("tiny", words))
    assert "\n" not in str(caught.value)


def test_memory_of_gpus_travels_between_gpus():
    for kind in ("ipc", "nccl"):
        validate(load_config("tiny", [f"policies.text.transport={kind}", "policies.text.num_gpus=1"]))
