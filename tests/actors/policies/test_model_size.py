"""Sizes of models: what is counted without memory is what the real classes hold, of every family."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch

from actors.policies.model_size import find_model, read_model
from actors.policies.restoration.small import build_image_policy
from configs.derive import COLDSTART
from configs.errors import ConfigError
from configs.load import load_config
from configs.planning.activations import TextShape, text_elements
from configs.planning.memory import learner_memory
from configs.planning.models import ASSUMED
from configs.planning.workload import cache_bytes_a_token, text_shape
from rl.compat.torchvision import ensure_torchvision
from tests.reference.tiny_text import build

ensure_torchvision()

from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3VLConfig,
)

SMALL = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip


def parameters_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def remove_weights(directory: Path) -> None:
    for weights in list(directory.rglob("*.safetensors")):
        weights.unlink()


# --------------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize("name", sorted(ASSUMED["token"]))
def test_a_published_language_models_parameters_are_those_of_transformers(name):
    model = ASSUMED["token"][name]
    tied = model.fields["text_config"]["tie_word_embeddings"]
    kind = Qwen3VLConfig if "Qwen3-VL" in name else Qwen2_5_VLConfig
    with torch.device("meta"):
        made = AutoModelForImageTextToText.from_config(kind(**model.fields, tie_word_embeddings=tied))
    if tied:  # on the meta device nothing is tied yet
        made.lm_head.weight = made.model.language_model.embed_tokens.weight
    assert model.num_trained == parameters_of(made)


@pytest.mark.parametrize("name", sorted(ASSUMED["denoising"]))
def test_a_published_picture_nets_parameters_are_those_of_diffusers(name):
    model = ASSUMED["denoising"][name]
    fields = dict(model.fields)
    kind = getattr(diffusers, fields.pop("_class_name"))
    with torch.device("meta"):
        made = kind(**fields)
    assert model.num_trained == parameters_of(made)


# --------------------------------------------------------------------------------- checkpoints that are here


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_model_that_sees_is_counted_from_its_configuration(tmp_path: Path, is_tied: bool):
    build(tmp_path, is_tied=is_tied)
    real = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    with_weights = read_model(tmp_path, "token")
    remove_weights(tmp_path)
    model = read_model(tmp_path, "token")
    assert model == with_weights
    assert model.origin == "read"
    assert model.num_trained == parameters_of(real)
    assert model.pixel_range == (256, 256)
    config = load_config("demo", [f"policies.text.source={tmp_path}"])
    assert find_model(config, "text") == model


def test_what_is_assumed_of_a_cold_start_is_what_it_makes(tmp_path: Path):
    build(tmp_path / "text")
    build_image_policy(tmp_path / "image", texts=("a cat",), seed=0)
    text, image = read_model(tmp_path / "text", "token"), read_model(tmp_path / "image", "denoising")
    for section, assumed in ASSUMED["token"][COLDSTART].fields.items():
        sizes = {key: value for key, value in assumed.items() if key != "vocab_size"}
        assert {key: text.fields[section][key] for key in sizes} == sizes
    painter = ASSUMED["denoising"][COLDSTART]
    assert {key: image.fields[key] for key in painter.fields} == painter.fields
    assert (image.num_trained, image.patch) == (painter.num_trained, painter.patch)


@pytest.mark.parametrize("kind", [Qwen3Config, LlamaConfig])
@pytest.mark.parametrize("is_tied", [False, True])
def test_other_language_models_are_counted_and_planned(tmp_path: Path, kind, is_tied: bool):
    real = AutoModelForCausalLM.from_config(kind(**SMALL, tie_word_embeddings=is_tied))
    real.save_pretrained(tmp_path)
    with_weights = read_model(tmp_path, "token")
    remove_weights(tmp_path)
    model = read_model(tmp_path, "token")
    assert model == with_weights
    assert model.num_trained == parameters_of(real)
    assert cache_bytes_a_token(model.fields, "bfloat16") == 2 * 3 * 2 * 32 * 2
    config = load_config("demo", [f"policies.text.source={tmp_path}"])
    shape = text_shape(config, "text", model)
    assert (shape.rows, shape.patches) == (16, 0)
    # Per layer and token: norms and projections 6 H, queries and keys 2 q + 2 k, MLP 4 I; 3 H behind the last.
    layer = 6 * 64 + 2 * 128 + 2 * 64 + 4 * 160
    one_token = TextShape(rows=1, tokens=1, patches=0, actions=1)
    assert text_elements(model.fields, one_token, recomputed=False) == 3 * layer + 3 * 64
    assert learner_memory(config, "text", model).weights == 2 * 4 * parameters_of(real), (
        "and the start, for the KL"
    )
    alone = load_config("demo", [f"policies.text.source={tmp_path}", "policies.text.loss.kl_weight=0"])
    assert learner_memory(alone, "text", model).weights == 4 * parameters_of(real)


def test_a_painter_is_counted_and_what_it_only_runs(tmp_path: Path):
    build_image_policy(tmp_path, texts=("a cat", "a dog"), seed=0, channels=(32, 64))
    net = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    from transformers import T5EncoderModel

    encoder = T5EncoderModel.from_pretrained(tmp_path / "text_encoder")
    with_weights = read_model(tmp_path, "denoising")
    remove_weights(tmp_path)
    model = read_model(tmp_path, "denoising")
    assert model == with_weights
    assert (model.num_trained, model.num_frozen) == (parameters_of(net), parameters_of(encoder))
    assert model.patch == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": [32, 64, 96], "layers_per_block": 2},
        {"block_out_channels": [32, 64], "transformer_layers_per_block": 2},
        {
            "block_out_channels": [32, 64],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
    ],
)
def test_other_unets_are_counted_too(changes, tmp_path: Path):
    fields = dict(ASSUMED["denoising"][COLDSTART].fields) | changes
    if len(fields["block_out_channels"]) == 3:
        fields |= {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3}
    given = {name: value for name, value in fields.items() if name != "_class_name"}
    with torch.device("meta"):
        real = diffusers.UNet2DConditionModel(**given)
    real.save_config(tmp_path / "unet")
    index = {"_class_name": "AnyPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert read_model(tmp_path, "denoising").num_trained == parameters_of(real)


def test_weights_in_two_precisions_are_counted_once(tmp_path: Path):
    build(tmp_path)
    expected = read_model(tmp_path, "token").num_trained
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.fp16.safetensors").write_bytes(weights)
    (tmp_path / "consolidated.safetensors").write_bytes(
        weights
    )  # the same weights by their publisher's names
    assert read_model(tmp_path, "token").num_trained == expected


def test_the_released_qwens_flat_configuration_is_read(tmp_path: Path):
    fields = ASSUMED["token"]["Qwen/Qwen2.5-VL-7B-Instruct"].fields
    flat = {"model_type": "qwen2_5_vl", **fields["text_config"], "vision_config": fields["vision_config"]}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    model = read_model(tmp_path, "token")
    assert model.num_trained == ASSUMED["token"]["Qwen/Qwen2.5-VL-7B-Instruct"].num_trained
    assert cache_bytes_a_token(model.fields, "bfloat16") == 57344


def test_a_hub_name_is_read_from_the_cache_of_downloads(tmp_path: Path, monkeypatch):
    config = load_config("qwen2_5_vl_8gpu", ["policies.text.source=someone/small"])
    assert find_model(config, "text") is None
    cached = tmp_path / "models--someone--small"
    LlamaConfig(**SMALL, architectures=["LlamaForCausalLM"]).save_pretrained(cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = find_model(config, "text")
    assert model.origin == "read"
    assert model.fields["text_config"]["hidden_size"] == SMALL["hidden_size"]


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "nobodys"}'])
def test_a_broken_checkpoint_is_named_in_one_line(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model_index.json").write_text(content)
    for kind in ("token", "denoising"):
        with pytest.raises(ConfigError, match="its size cannot be read") as caught:
            read_model(tmp_path, kind)
        assert "\n" not in str(caught.value)
