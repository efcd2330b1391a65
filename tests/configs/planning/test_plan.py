"""Memory and work of a plan: worked examples, and what must not fit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from actors.policies.model_size import find_model, find_models
from cluster.cli import main
from configs.load import load_config, shipped_names
from configs.planning.memory import GIB, PARTS, learner_memory, offloaded_bytes, rollout_memory
from configs.planning.models import ASSUMED
from configs.planning.plan import Plan, make_plan
from configs.planning.workload import cache_bytes_a_token, text_shape, workload


def plan_of(name: str, overrides: Sequence[str] = (), **host: int) -> Plan:
    config = load_config(name, overrides)
    return make_plan(config, find_models(config), **host)


# Qwen2.5-VL-7B: 28 layers, 4 key-value heads of 128, bfloat16: 2 x 28 x 512 x 2 bytes.
def test_the_cache_of_a_token():
    assert cache_bytes_a_token(ASSUMED["token"]["Qwen/Qwen2.5-VL-7B-Instruct"].fields, "bfloat16") == 57344


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


ROWS = [
    f"policies.text.learner.{setting}"
    for setting in ("micro_batch_size=4", "max_tokens=0", "gradient_checkpointing=false")
]
"""Micro-batches of rows alone, whose layers keep all: what the shipped configurations do not have."""


def test_what_adds_memory_and_what_saves_it():
    config = load_config("qwen2_5_vl_64gpu", ROWS)
    model = find_model(config, "text")
    plain = learner_memory(config, "text", model)
    for override, part in (
        ("policies.text.loss.kl_weight=0.1", "weights"),
        ("policies.text.learner.ema_decay=0.9", "optimizer"),
        ("policies.text.learner.micro_batch_size=8", "activations"),
        ("policies.text.rollout.guidance_scale=2", "activations"),
    ):
        more = learner_memory(load_config("qwen2_5_vl_64gpu", [*ROWS, override]), "text", model)
        assert getattr(more, part) > getattr(plain, part), override
    for override, part in (
        ("policies.text.learner.gradient_checkpointing=true", "activations"),
        ("policies.text.learner.max_tokens=1000", "activations"),
    ):
        less = learner_memory(load_config("qwen2_5_vl_64gpu", [*ROWS, override]), "text", model)
        assert getattr(less, part) < getattr(plain, part), override
    assert plain.total == sum(getattr(plain, part) for part in PARTS)


def test_offloaded_states_are_on_the_host_and_the_table_says_so(capsys, tmp_path):
    """12 bytes a weight of float32 weights and moments, 4 of gradients, 2 of new bfloat16 weights, over 16 ranks."""
    overrides = ["policies.text.learner.offload_optimizer=true"]
    config = load_config("qwen2_5_vl_64gpu", overrides)
    model = find_model(config, "text")
    assert learner_memory(config, "text", model).optimizer == 0
    assert offloaded_bytes(config, "text", model) == pytest.approx(18 * model.num_trained / 16)
    assert plan_of("qwen2_5_vl_64gpu", overrides).offloaded_bytes.keys() == {"text"}
    assert plan_of("qwen2_5_vl_64gpu").offloaded_bytes == {}
    assert main(["plan", "qwen2_5_vl_64gpu", *overrides, f"output_dir={tmp_path}"]) == 0
    assert "GiB of each learner rank on the host" in capsys.readouterr().out
    laptop = load_config("demo", overrides)
    at_hand = find_model(laptop, "text")
    plain = learner_memory(load_config("demo"), "text", at_hand)
    assert learner_memory(laptop, "text", at_hand) == plain


def test_vllm_takes_its_share_of_the_gpu():
    config = load_config("qwen2_5_vl_8gpu")
    memory = rollout_memory(config, "text", find_model(config, "text"))
    assert memory.total == pytest.approx(0.9 * 80 * GIB, rel=1e-6)


def test_a_steps_work_adds_up():
    config = load_config("demo")
    work = workload(config, {})
    assert (work.num_chains, work.num_tokens, work.num_denoising_steps) == (32, 32 * 128, 32 * 12)
    pixels = 16**2 + 32**2 + 64**2
    assert work.latent_bytes == 32 * 3 * pixels * (5 * 4 + 1)
    shape = text_shape(config, "text", find_model(config, "text"))
    assert (shape.rows, shape.actions, shape.patches) == (16, 128, 12)


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_configuration_fits(name, capsys, tmp_path):
    plan = plan_of(name)
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
            [*ROWS, "policies.text.learner.micro_batch_size=64"],
            "learner text",
            "micro_batch_size",
        ),
        (
            "qwen2_5_vl_8gpu",
            [*ROWS, "policies.text.learner.micro_batch_size=64", "policies.text.learner.max_tokens=50000"],
            "learner text",
            "lower policies.text.learner.max_tokens (now 50000)",
        ),
        ("qwen2_5_vl_8gpu", ["policies.text.num_gpus=0.1"], "cache", "policies.text.num_gpus"),
    ],
)
def test_what_does_not_fit_is_said_with_its_remedy(name, overrides, what, remedy, capsys, tmp_path):
    plan = plan_of(name, overrides)
    fatal = [finding for finding in plan.findings if finding.is_fatal]
    assert any(what in finding.what and remedy in finding.remedy for finding in fatal), fatal
    assert main(["plan", name, *overrides, f"output_dir={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert "does not fit" in err
    assert err.count("\n") == 1


def test_a_model_nobody_knows_is_said():
    plan = plan_of("qwen2_5_vl_8gpu", ["policies.text.source=someone/else"])
    (finding,) = plan.findings
    assert "nothing is known of someone/else" in finding.what
    assert not finding.is_fatal
    assert "learner-text-0" not in plan.memory


def test_in_turns_the_larger_counts_and_a_context():
    plan = plan_of("qwen2_5_vl_1gpu")
    (bundle,) = [bundle for node in plan.placement.nodes for bundle in node.bundles if bundle.num_gpus]
    totals = {name: memory.total for name, memory in plan.memory.items()}
    text = max(totals["rollout-text-0"], totals["learner-text-0"])
    image = max(totals["rollout-image-0"], totals["learner-image-0"])
    assert plan.bundle_bytes(bundle) == text + image + 2 * (3 * GIB // 2)


def test_too_small_a_machine_is_told():
    plan = plan_of("demo", host_bytes=2 * GIB)
    (finding,) = plan.findings
    assert finding.is_fatal
    assert "this machine has 2.0" in finding.what
