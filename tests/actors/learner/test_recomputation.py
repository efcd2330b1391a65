"""Gradient checkpointing: what is computed twice, that nothing else changes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from actors.learner.recomputation import recompute_activations
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError
from tests.reference.layered_policy import layered_lives, small_qwen3
from tests.reference.ranks import run_ranks
from tests.reference.tiny_policy import write_start

KEY = "policies.text.learner.gradient_checkpointing"
LIVES = [(stage, with_lora) for stage in (1, 2, 3) for with_lora in (False, True)]


def small_unet():
    ensure_torchvision()
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def qwen3_loss(net):
    ids = torch.arange(10)[None]
    return torch.log_softmax(net(input_ids=ids, use_cache=False).logits, -1)[0, :, 1].sum()


def unet_loss(net):
    generator = torch.Generator().manual_seed(1)
    picture, text = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 5, 8, generator=generator)
    return net(picture, torch.tensor([10.0, 500.0]), encoder_hidden_states=text).sample.square().sum()


NETS = {"qwen3": (small_qwen3, qwen3_loss, "down_proj", 2), "unet": (small_unet, unet_loss, "conv1", 15 / 8)}
"""Net, loss, a layer, and how often it runs in all; diffusers leaves the first ResNet block of a UNet's middle out."""


@pytest.mark.parametrize("name", NETS)
def test_layers_run_twice_and_gradients_are_the_same(name):
    make, loss_of, layer, num_runs = NETS[name]
    found = []
    for is_on in (False, True):
        net = make().eval()
        if is_on:
            recompute_activations(net, key=KEY)
        runs = []
        for part, module in net.named_modules():
            if part.endswith(layer):
                module.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        loss = loss_of(net)
        num_forward = len(runs)
        loss.backward()
        found.append((loss, {part: p.grad for part, p in net.named_parameters()}, len(runs) / num_forward))
        assert not any(
            module.training for module in net.modules() if isinstance(module, nn.Dropout | nn.Linear)
        )
    (loss, gradients, once), (again, same, twice) = found
    assert (once, twice) == (1, num_runs)
    assert torch.equal(loss, again)
    for part, gradient in gradients.items():
        assert torch.equal(gradient, same[part]), part


def small_opt():
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=16,
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
    )
    return OPTForCausalLM(config)


def no_layers():
    from transformers import PreTrainedConfig, PreTrainedModel

    class Bare(PreTrainedModel):
        config_class = PreTrainedConfig
        supports_gradient_checkpointing = False

    return Bare(PreTrainedConfig())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (
            lambda: nn.Linear(2, 2),
            "Linear cannot compute its activations again: it is neither a transformers",
        ),
        (small_opt, "OPTForCausalLM cannot .* its OPTDecoderLayer has dropout above 0"),
        (no_layers, "Bare cannot .* does not support gradient checkpointing; set it to false"),
    ],
)
def test_a_net_that_cannot_is_refused_by_name(make, error):
    with pytest.raises(ConfigError, match=f"^{KEY}: {error}"):
        recompute_activations(make().eval(), key=KEY)


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """What both ranks recorded: ``[life][rank]``."""
    root = tmp_path_factory.mktemp("recomputation")
    write_start(root / "start")
    ranks = run_ranks(layered_lives, 2, root, LIVES)
    return {life: [rank[index] for rank in ranks] for index, life in enumerate(LIVES)}


@pytest.mark.engine
@pytest.mark.parametrize("life", LIVES)
def test_under_deepspeed_weights_are_the_same_with_and_without(lives, life):
    for rank in lives[life]:
        # With adapters there is a pass more: the reference's, without a backward pass.
        assert rank[False]["runs_a_layer"] == 1 + life[1]
        assert rank[True]["runs_a_layer"] == 2 + life[1]
        assert rank[True]["grad_norms"] == rank[False]["grad_norms"]
    before, after = (lives[life][0][is_on]["after"] for is_on in (False, True))
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
