"""Small text-to-image painter made from nothing: a random StableDiffusion3 pipeline around an exact autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from actors.policies.denoising.small_text import make_text_encoder, make_tokenizer
from actors.policies.text_to_image.autoencoder import COLOURS, cell_autoencoder
from rl.compat.torchvision import ensure_torchvision

NUM_HALVINGS = 2
"""Of the autoencoder: a cell is 4 x 4 pixels."""
PATCH = 2
"""Cells along the edge of one of the net's tokens."""
CELL_PX = PATCH * 2**NUM_HALVINGS
"""Edges of pictures are multiples of this, pixels."""
MAX_TOKENS = 12
"""Longest text, in words and signs, more is cut: ``max_sequence_length`` of a call."""
TEXT_WIDTH = 32
"""Of each of the two CLIP encoders; T5's is both together."""
NUM_HEADS, HEAD_WIDTH = 4, 16


def make_text_to_image(*, texts: Sequence[str], longest_px: int, seed: int, num_layers: int = 3) -> Any:
    """Make a small random ``StableDiffusion3Pipeline``.

    Its text encoders stay random: they are a code for words and their places, which is all that the net needs.

    Args:
        texts: What the tokenizer must know the words of.
        longest_px: Longest edge of any picture, pixels.
        seed: Of the initial weights.
        num_layers: Of the net.
    """
    ensure_torchvision()
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(texts, max_length=MAX_TOKENS)
    edge = -(-longest_px // CELL_PX) * PATCH
    width = NUM_HEADS * HEAD_WIDTH
    net = SD3Transformer2DModel(
        sample_size=edge,
        patch_size=PATCH,
        in_channels=COLOURS,
        out_channels=COLOURS,
        num_layers=num_layers,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=NUM_HEADS,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=edge // PATCH,
    )
    return StableDiffusion3Pipeline(
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=cell_autoencoder(NUM_HALVINGS),
        text_encoder=_clip_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=_clip_encoder(len(tokenizer)),
        tokenizer_2=tokenizer,
        text_encoder_3=make_text_encoder(len(tokenizer), width=2 * TEXT_WIDTH).eval(),
        tokenizer_3=tokenizer,
    )


def _clip_encoder(vocab_size: int) -> Any:
    """Make two layers, so that there is a last but one, which the pipeline reads; words outweigh what they mix."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    encoder = CLIPTextModelWithProjection(config).eval()
    for embedding in (part for part in encoder.modules() if isinstance(part, nn.Embedding)):
        nn.init.normal_(embedding.weight)
    return encoder
