"""DeepSpeed learners that train adapters in real processes, against a few lines of plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from actors.shared.lora import merged, scale_of
from rl.compat.torchvision import ensure_torchvision
from tests.reference.ema import moving_averages
from tests.reference.learner_jobs import STEPS, plain_training, start_examples
from tests.reference.lora_jobs import DECAY, LORA, adapted_lives, adapter_config
from tests.reference.policy_configs import policy_config
from tests.reference.ranks import run_ranks
from tests.reference.tiny_policy import BLOCKS, TinyPolicy, write_start

pytestmark = pytest.mark.engine

LIVES = [(2, 1), (2, 2), (2, 3)]
"""Ranks and ZeRO stage."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("lora")
    write_start(path / "start")
    return path


@pytest.fixture(scope="module")
def lives(root):
    """What each rank recorded: ``[life][rank]``."""
    found = {}
    for world in sorted({ranks for ranks, _ in LIVES}):
        stages = [stage for ranks, stage in LIVES if ranks == world]
        ranks = run_ranks(adapted_lives, world, root, stages)
        for index, stage in enumerate(stages):
            found[(world, stage)] = [rank[index] for rank in ranks]
    return found


@pytest.fixture(scope="module")
def plain(root):
    losses, weights = plain_training(root / "start", adapter_config(2), STEPS)
    return losses, {
        name.replace(".default.", "."): w.numpy() for name, w in weights.items() if "lora_" in name
    }


def bits(weights):
    return {name: array.tobytes() for name, array in weights.items()}


@pytest.mark.parametrize("life", LIVES)
def test_adapters_are_trained_as_without_deepspeed(lives, life, plain):
    losses, wanted = plain
    after = lives[life][0]["history"][-1]
    assert after.keys() == wanted.keys()
    for name, want in wanted.items():
        np.testing.assert_allclose(after[name], want, rtol=0, atol=2e-6, err_msg=name)
    for step, want in enumerate(losses):
        total, count = np.sum(
            [rank["stats"][step]["sums"]["loss/tiny/total"] for rank in lives[life]], axis=0
        )
        assert total / count == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize("life", LIVES)
def test_before_the_first_update_every_ratio_is_one_and_the_kl_nothing(lives, life):
    for rank in lives[life]:
        assert rank["stats"][0]["maxima"]["policy/tiny/ratio_before_update/max_dev"] < 1e-6
        assert abs(rank["stats"][0]["sums"]["policy/tiny/ref_kl_nats/mean"][0]) < 1e-6
        assert rank["stats"][2]["sums"]["policy/tiny/ref_kl_nats/mean"][0] > 1e-6


@pytest.mark.parametrize("life", LIVES)
def test_only_adapters_are_published_and_have_optimizer_states(lives, life):
    first = lives[life][0]["history"][0]
    assert sorted(first) == [f"{layer}.lora_{side}.weight" for layer in ("head", "mixer") for side in "AB"]
    num = sum(array.size for array in first.values())
    held = sum(rank["num_masters"] for rank in lives[life])
    assert num <= held < num + 64 * life[0]


@pytest.mark.parametrize("life", LIVES)
def test_the_average_is_that_of_the_adapters(lives, life):
    first = lives[life][0]
    for name, want in moving_averages(first["history"], DECAY).items():
        np.testing.assert_allclose(first["average"][name], want, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("life", LIVES)
def test_the_merged_export_and_the_adapter_give_the_same_logprobs(lives, life, root):
    from peft import PeftModel

    ensure_torchvision()
    folder = root / f"{life[0]}-{life[1]}"
    start = load_file(root / "start" / "model.safetensors")
    average = {name: torch.from_numpy(array) for name, array in lives[life][0]["average"].items()}
    wanted = dict(merged(start.items(), average, scale_of(LORA)))
    assert bits(lives[life][0]["merged"]) == bits({name: tensor.numpy() for name, tensor in wanted.items()})
    examples = start_examples(root / "start", policy_config())[:2]
    whole = TinyPolicy.load(folder / "model", policy_config(), block_names=BLOCKS)
    base = TinyPolicy.load(root / "start", policy_config(), block_names=BLOCKS)
    adapter = PeftModel.from_pretrained(base, folder / "adapter")
    for index, example in enumerate(examples):
        inputs = whole.collate([example]).inputs
        with torch.no_grad():
            both = [policy(inputs).logprobs[0].numpy() for policy in (whole, adapter)]
        np.testing.assert_allclose(both[0], both[1], rtol=0, atol=1e-5)
        for rank in lives[life]:
            np.testing.assert_allclose(rank["scores"][index], both[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("life", LIVES)
def test_a_resumed_run_that_slept_has_the_same_adapters_to_the_last_bit(lives, life):
    for rank in lives[life]:
        assert bits(rank["loaded"]) == bits(rank["history"][-1])
        for got, want in zip(rank["resumed"], rank["uninterrupted"], strict=True):
            assert bits(got) == bits(want)
