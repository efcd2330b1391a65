"""Autoencoder without training: a stock ``AutoencoderKL`` whose latents are means over cells of a picture.

The weights are set by hand so that every layer is linear: residual branches are 0, halvings are means over 2 x 2
pixels, doublings repeat a pixel. The one layer that cannot be left out, the normalisation before the last convolution,
is led to divide by a constant: of its eight channels, three carry the picture, three its negative (so that their mean
is 0), and two a number so large that it alone makes the deviation. The activation behind it is the
identity far above 0.

A picture of equal cells comes out as it went in, to less than an eighth of a grey level.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHANNELS = 8
COLOURS = 3
LARGE = 200.0
"""Of the two channels that make the deviation; pictures are within -1..1."""
SCALE = LARGE * (2 / CHANNELS) ** 0.5
"""What the normalisation divides by."""
LIFT = 20.0
"""Added before the activation ``x sigmoid(x)`` and taken off after it."""


@torch.no_grad()
def cell_autoencoder(num_halvings: int) -> Any:
    """Make an autoencoder with latents ``[B, 3, H / 2^n, W / 2^n]``, the means of cells of ``2^n x 2^n`` pixels.

    Args:
        num_halvings: n.
    """
    from diffusers import AutoencoderKL

    levels = num_halvings + 1
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(CHANNELS,) * levels,
        layers_per_block=1,
        latent_channels=COLOURS,
        norm_num_groups=1,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    for name, parameter in autoencoder.named_parameters():
        if ".conv2." in name:  # of a residual block
            parameter.zero_()
    for part in (autoencoder.encoder, autoencoder.decoder):
        _spread(part.conv_in)
        part.conv_norm_out.weight.fill_(SCALE)
        part.conv_norm_out.bias.fill_(LIFT)
        _gather(part.conv_out)
    for block in autoencoder.encoder.down_blocks:
        for halving in block.downsamplers or ():
            _keep(halving.conv, torch.full((2, 2), 0.25), at=0)
    for block in autoencoder.decoder.up_blocks:
        for doubling in block.upsamplers or ():
            _keep(doubling.conv, torch.ones(1, 1), at=1)
    return autoencoder.eval()


def _spread(conv: nn.Conv2d) -> None:
    """Three colours to eight channels."""
    assert conv.bias is not None
    conv.weight.zero_()
    conv.bias.zero_()
    for colour in range(COLOURS):
        conv.weight[colour, colour, 1, 1] = 1.0
        conv.weight[COLOURS + colour, colour, 1, 1] = -1.0
    conv.bias[-2:] = torch.tensor([LARGE, -LARGE])


def _gather(conv: nn.Conv2d) -> None:
    """Eight channels to three colours; what else there is (an encoder's log-variances) is far below 0."""
    assert conv.bias is not None
    conv.weight.zero_()
    conv.bias.fill_(-30.0)
    for colour in range(COLOURS):
        conv.weight[colour, colour, 1, 1] = 0.5
        conv.weight[colour, COLOURS + colour, 1, 1] = -0.5
        conv.bias[colour] = 0.0


def _keep(conv: nn.Conv2d, kernel: Tensor, *, at: int) -> None:
    """Each channel by itself, under one kernel that begins at ``at``."""
    assert conv.bias is not None
    conv.weight.zero_()
    conv.bias.zero_()
    end = at + len(kernel)
    for channel in range(CHANNELS):
        conv.weight[channel, channel, at:end, at:end] = kernel
