"""Small restoration painter made from nothing: a random checkpoint of stock classes of diffusers and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from actors.policies.denoising.small_text import make_text_encoder, make_tokenizer
from actors.policies.restoration.image_model import NUM_FLAG_CHANNELS
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError


def build_image_policy(
    directory: Path,
    *,
    texts: Sequence[str],
    sizes: Sequence[int] = (),
    seed: int,
    channels: Sequence[int] = (64, 64),
    patch: int = 4,
    source_std: float = 0.15,
) -> None:
    """Write a small random checkpoint that restores like bicubic.

    Args:
        directory: Where to.
        texts: What the tokenizer must know the words of.
        sizes: Sizes of the chain's image blocks, pixels; only checked: one net paints them all.
        seed: Of the initial weights.
        channels: Width of the net at each resolution; pictures are multiples of ``patch * 2^(levels - 1)``.
        patch: Pixels along the edge of a patch.
        source_std: Deviation of the source noise, in latent units. Larger gives more to explore and less fidelity.

    Raises:
        ConfigError: If a size is not a multiple of the net's coarsest cell.
    """
    cell = patch * 2 ** (len(channels) - 1)
    if odd := [size for size in sizes if size % cell]:
        raise ConfigError(
            f"chain: size_px={odd[0]} is not a multiple of {cell}, which the built-in picture net needs"
        )
    ensure_torchvision()
    from diffusers import FlowMatchEulerDiscreteScheduler

    from actors.policies.restoration.pipeline import RestorationPipeline

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(texts, max_length=96)
    encoder = make_text_encoder(len(tokenizer), width=32)
    pipeline = RestorationPipeline(
        unet=make_net(channels, patch=patch, text_width=encoder.config.d_model),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        patch=patch,
        source_std=source_std,
    )
    pipeline.save_pretrained(directory)


def make_net(channels: Sequence[int], *, patch: int, text_width: int) -> nn.Module:
    """Make a net over patches whose last layer is zero; text enters at its coarsest resolution."""
    from diffusers import UNet2DConditionModel

    area = patch * patch
    net: nn.Module = UNet2DConditionModel(
        in_channels=9 * area + NUM_FLAG_CHANNELS,
        out_channels=3 * area,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=text_width,
        attention_head_dim=4,
    )
    nn.init.zeros_(net.get_parameter("conv_out.weight"))
    nn.init.zeros_(net.get_parameter("conv_out.bias"))
    return net
