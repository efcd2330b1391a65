"""Sizes, memory and work of a plan: against the real architectures, worked examples, and what must not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster.cli import main
from configs.errors import ConfigError
from configs.load import load_config, shipped_names
from configs.planning.known_models import PICTURE_MODELS, TEXT_MODELS
from configs.planning.memory import GIB, PARTS, learner_memory, rollout_memory
from configs.planning.model_files import find_model, read_model
from configs.planning.model_shapes import count_parameters
from configs.planning.plan import make_plan
from configs.planning.workload import cache_bytes_a_token, text_shape, workload
from rl.compat.torchvision import ensure_torchvision
from tests.reference.tiny_text import build


def parameters_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", sorted(TEXT_MODELS))
def test_a_language_models_parameters_are_those_of_transformers(name):
    ensure_torchvision()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    fields = TEXT_MODELS[name]
    tied = fields["text_config"]["tie_word_embeddings"]
    config = Qwen2_5_VLConfig(**fields, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    if tied:  # on the meta device nothing is tied yet
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    assert count_parameters(fields) == parameters_of(model)


@pytest.mark.parametrize("name", sorted(PICTURE_MODELS))
def test_a_picture_nets_parameters_are_those_of_diffusers(name):
    import diffusers

    fields = dict(PICTURE_MODELS[name])
    kind = getattr(diffusers, fields.pop("_class_name"))
    if kind is diffusers.UNet2DConditionModel:
        fields |= {"attention_head_dim": 4, "norm_num_groups": 8}
    else:
        fields |= {"caption_projection_dim": fields["num_attention_heads"] * fields["attention_head_dim"]}
    with torch.device("meta"):
        model = kind(**fields)
    assert count_parameters(PICTURE_MODELS[name]) == parameters_of(model)


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
def test_other_unets_are_counted_too(changes):
    import diffusers

    fields = dict(PICTURE_MODELS["coldstart"]) | changes
    levels = len(fields["block_out_channels"])
    if levels == 3:
        fields |= {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3}
    given = {name: value for name, value in fields.items() if name != "_class_name"}
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**given, attention_head_dim=4, norm_num_groups=8)
    assert count_parameters(fields) == parameters_of(model)


def test_a_checkpoint_is_read_from_its_headers(tmp_path: Path):
    build(tmp_path)
    model = read_model(tmp_path, "token")
    assert model.origin == "read"
    assert model.num_trained == count_parameters(model.fields)
    assert model.pixel_range == (256, 256)
    config = load_config("demo", [f"policies.text.source={tmp_path}"])
    assert find_model(config, "text") == model


def test_a_broken_checkpoint_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="its size cannot be read"):
        read_model(tmp_path, "token")


# Qwen2.5-VL-7B: 28 layers, 4 key-value heads of 128, bfloat16: 2 x 28 x 512 x 2 bytes.
def test_the_cache_of_a_token():
    assert cache_bytes_a_token(TEXT_MODELS["Qwen/Qwen2.5-VL-7B-Instruct"], "bfloat16") == 57344


def test_zero_stages_divide_what_they_shard():
    """The worked example of the ZeRO paper (figure 1): 7.5 B parameters, 64 ranks: 120, 31.4, 16.6, 1.9 GB."""
    expected = {1: 2 + 2 + 12 / 64, 2: 2 + 14 / 64, 3: 16 / 64}
    for stage, bytes_a_parameter in expected.items():
        config = load_config(
            "qwen2_5_vl_64gpu",
            [f"policies.text.learner.zero_stage={stage}", "policies.text.learner.num_ranks=64"],
        )
        model = find_model(config, "text")
        memory = learner_memory(config, "text", model)
        held = memory.weights + memory.gradients + memory.optimizer
        assert held == pytest.approx(bytes_a_parameter * model.num_trained, rel=1e-6)


def test_what_adds_memory_and_what_saves_it():
    config = load_config("qwen2_5_vl_64gpu")
    model = find_model(config, "text")
    plain = learner_memory(config, "text", model)
    for override, part in (
        ("policies.text.loss.kl_weight=0.1", "weights"),
        ("policies.text.learner.ema_decay=0.9", "optimizer"),
        ("policies.text.learner.micro_batch_size=8", "activations"),
        ("policies.text.rollout.guidance_scale=2", "activations"),
    ):
        more = learner_memory(load_config("qwen2_5_vl_64gpu", [override]), "text", model)
        assert getattr(more, part) > getattr(plain, part), override
    assert plain.total == sum(getattr(plain, part) for part in PARTS)


def test_vllm_takes_its_share_of_the_gpu():
    config = load_config("qwen2_5_vl_8gpu")
    memory = rollout_memory(config, "text", find_model(config, "text"))
    assert memory.total == pytest.approx(0.9 * 80 * GIB, rel=1e-6)


def test_a_steps_work_adds_up():
    config = load_config("demo")
    work = workload(config)
    assert (work.num_chains, work.num_tokens, work.num_denoising_steps) == (32, 32 * 128, 32 * 12)
    pixels = 16**2 + 32**2 + 64**2
    assert work.latent_bytes == 32 * 3 * pixels * (5 * 4 + 1)
    shape = text_shape(config, "text", find_model(config, "text"))
    assert (shape.rows, shape.actions, shape.patches) == (16, 128, 12)


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_configuration_fits(name, capsys, tmp_path):
    plan = make_plan(load_config(name))
    assert [finding.what for finding in plan.findings if finding.is_fatal] == []
    assert set(plan.memory) == {
        p.name for p in plan.placement.processes() if p.role in ("rollout", "learner", "reward")
    }
    assert main(["plan", name, f"output_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "placement" in said
    assert "memory of one process" in said


@pytest.mark.parametrize(
    ("name", "overrides", "what", "remedy"),
    [
        (
            "qwen2_5_vl_8gpu",
            ["policies.text.learner.zero_stage=1", "gpu_gib=50"],
            "learner text",
            "zero_stage to 3",
        ),
        ("qwen2_5_vl_8gpu", ["gpu_gib=24"], "learner text", "policies.text.learner.num_ranks"),
        (
            "qwen2_5_vl_8gpu",
            ["policies.text.learner.micro_batch_size=64"],
            "learner text",
            "micro_batch_size",
        ),
        ("qwen2_5_vl_8gpu", ["policies.text.num_gpus=0.1"], "cache", "policies.text.num_gpus"),
    ],
)
def test_what_does_not_fit_is_said_with_its_remedy(name, overrides, what, remedy, capsys, tmp_path):
    plan = make_plan(load_config(name, overrides))
    fatal = [finding for finding in plan.findings if finding.is_fatal]
    assert any(what in finding.what and remedy in finding.remedy for finding in fatal), fatal
    assert main(["plan", name, *overrides, f"output_dir={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert "does not fit" in err
    assert err.count("\n") == 1


def test_a_model_nobody_knows_is_said():
    plan = make_plan(load_config("qwen2_5_vl_8gpu", ["policies.text.source=someone/else"]))
    (finding,) = plan.findings
    assert "nothing is known of someone/else" in finding.what
    assert not finding.is_fatal
    assert "learner-text-0" not in plan.memory


def test_in_turns_the_larger_counts_and_a_context():
    plan = make_plan(load_config("qwen2_5_vl_1gpu"))
    (bundle,) = [bundle for node in plan.placement.nodes for bundle in node.bundles if bundle.num_gpus]
    totals = {name: memory.total for name, memory in plan.memory.items()}
    text = max(totals["rollout-text-0"], totals["learner-text-0"])
    image = max(totals["rollout-image-0"], totals["learner-image-0"])
    assert plan.bundle_bytes(bundle) == text + image + 2 * (3 * GIB // 2)


def test_too_small_a_machine_is_told():
    plan = make_plan(load_config("demo"), host_bytes=2 * GIB)
    (finding,) = plan.findings
    assert finding.is_fatal
    assert "this machine has 2.0" in finding.what
