"""Small Qwen2.5-VL made from nothing, for a cold start without a checkpoint.

What degraded a photo shows in the sizes of its frequencies (JPEG rounds those of 8x8 blocks, blur takes the high
ones, noise fills them). A random vision tower needs far longer than minutes to find that out, so ours starts from
it: patches are JPEG's blocks, the patch embedding is their cosine transform, and the first block adds magnitudes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.policies.token.tokenizer import (
    END,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    token_id,
    train_tokenizer,
)
from rl.compat.torchvision import ensure_torchvision

HEAD_SIZE = 32
"""Smallest that vLLM's CPU attention takes."""
HIDDEN_SIZE = 128
NUM_LAYERS = 2
VISION_SIZE = 256
"""Width of the vision tower: half of it frequencies, half their magnitudes."""
VISION_LAYERS = 1
PATCH_PX = 8
"""Edge of a patch, pixels: JPEG's block."""
MERGE = 1
"""Patches along each edge that are merged to one token: a picture is few patches already."""
WINDOW_PX = 64
"""Edge of an attention window; unused, as every layer sees the whole picture."""
VOCABULARY_MULTIPLE = 16
MAX_POSITIONS = 2048


def build_text_policy(
    directory: Path,
    *,
    texts: Iterable[str],
    block_names: Sequence[str],
    degraded_px: int,
    seed: int,
    tie_word_embeddings: bool = False,
) -> None:
    """Write a small, randomly initialised Qwen2.5-VL in the Hugging Face layout.

    Every picture is scaled by the image processor (the same code in vLLM and in the learner) to about the area
    of the degraded photo, so that all cost the same few tokens: 4 for 16 px.

    Args:
        directory: Where to write; made if absent.
        texts: Every form that texts can have, for the tokenizer.
        block_names: The chain's blocks in order.
        degraded_px: Edge of the degraded photo, pixels.
        seed: Of the initial weights.
        tie_word_embeddings: Whether the output matrix is that of the embeddings.
    """
    ensure_torchvision()
    from transformers import Qwen2_5_VLForConditionalGeneration

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, block_names)
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer, tie_word_embeddings))
    torch.set_rng_state(generator_state)
    start_from_frequencies(model.model.visual)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    cell = PATCH_PX * MERGE
    _processor(tokenizer, -(-degraded_px // cell) * cell).save_pretrained(directory)


def _config(tokenizer: Any, tie_word_embeddings: bool) -> Any:
    """Describe the small model."""
    from transformers import Qwen2_5_VLConfig

    num_ids = -(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    heads = HIDDEN_SIZE // HEAD_SIZE
    half = HEAD_SIZE // 2
    text = {
        "vocab_size": num_ids,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * HIDDEN_SIZE,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": HIDDEN_SIZE**-0.5,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [half // 4, 3 * half // 8, 3 * half // 8],
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": tie_word_embeddings,
    }
    vision = {
        "depth": VISION_LAYERS,
        "hidden_size": VISION_SIZE,
        "intermediate_size": 2 * VISION_SIZE,
        "num_heads": VISION_SIZE // HEAD_SIZE,
        "patch_size": PATCH_PX,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": WINDOW_PX,
        "out_hidden_size": HIDDEN_SIZE,
        "fullatt_block_indexes": list(range(VISION_LAYERS)),
        "initializer_range": VISION_SIZE**-0.5,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id(tokenizer, IMAGE_PAD),
        video_token_id=token_id(tokenizer, VIDEO_PAD),
        vision_start_token_id=token_id(tokenizer, VISION_START),
        vision_end_token_id=token_id(tokenizer, VISION_END),
        eos_token_id=token_id(tokenizer, END),
        tie_word_embeddings=tie_word_embeddings,
        dtype="float32",
    )


def _processor(tokenizer: Any, edge: int) -> Any:
    """Describe how pictures become patches."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    shared = {
        "patch_size": PATCH_PX,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": edge**2, "longest_edge": edge**2},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared),
    )


# --------------------------------------------------------------------------------- the vision tower's start

CONTRAST = 32.0
"""Factor on frequencies before they are made magnitudes: 1/32 is about half an 8-bit step."""
MAGNITUDE = 16.0 / CONTRAST
"""Size of a magnitude beside its frequency."""
RANDOM_SHARE = 0.01
"""Factor on the random weights that are left in the first block."""
MEAN_SHARE = 0.2
"""Factor on the mean colour, which would outshine everything else."""
CHROMA_COST = 1.6
"""Chroma frequencies are kept up to this many times lower than those of luma: JPEG halves their resolution."""
_YCBCR = ((0.299, 0.587, 0.114), (-0.338, -0.662, 1.0), (1.0, -0.838, -0.162))
"""Luma and twice the chroma of JPEG, by red, green and blue."""


def start_from_frequencies(visual: Any) -> None:
    """Make patch embedding and first block write frequencies and their magnitudes, in place.

    Half of the channels hold the lowest frequencies c of a patch. The first block's gated MLP adds
    ``silu(a c) + silu(-a c)``, which is about ``|a c|``, to the other half. A constant in the last channel keeps
    the layer norms from dividing weak textures up to strong ones.

    Args:
        visual: A vision tower whose patches are ``PATCH_PX`` wide.
    """
    with torch.no_grad():
        basis = cosine_basis(PATCH_PX, VISION_SIZE // 2)
        num = len(basis)
        patches = visual.patch_embed.proj.weight
        patches[num:] = 0.0
        patches[:num] = basis[:, :, None] / patches.shape[2]
        first = visual.blocks[0]
        for layer in (first.attn.proj, first.mlp.gate_proj, first.mlp.up_proj, first.mlp.down_proj):
            layer.weight *= RANDOM_SHARE
        first.attn.proj.bias.zero_()[-1] = VISION_SIZE**0.5
        unit = CONTRAST * torch.eye(num)
        first.mlp.gate_proj.weight[: 2 * num, :num] += torch.cat([unit, -unit])
        first.mlp.up_proj.bias[: 2 * num] = 1.0
        first.mlp.down_proj.weight[num : 2 * num, : 2 * num] += MAGNITUDE * torch.eye(num).repeat(1, 2)


def cosine_basis(edge: int, most: int) -> torch.Tensor:
    """Return the lowest frequencies of a patch in luma and chroma, low ones first.

    Args:
        edge: Of the patch, pixels.
        most: Number of frequencies.

    Returns:
        ``[<= most, 3, edge, edge]``: orthonormal DCT-II, weighted by 1 + frequency, as natural pictures fall.
    """
    k = torch.arange(edge)
    table = (2 / edge) ** 0.5 * torch.cos(torch.pi * (2 * k[None] + 1) * k[:, None] / (2 * edge))
    table[0] /= 2**0.5
    radius = (k[:, None] ** 2 + k[None] ** 2).float().sqrt()
    gain = 1 + radius
    gain[0, 0] = MEAN_SHARE
    waves = torch.einsum("uv,uy,vx->uvyx", gain, table, table)
    basis = torch.einsum("uvyx,cd->cuvdyx", waves, torch.tensor(_YCBCR)).flatten(0, 2)
    cost = torch.stack([radius, CHROMA_COST * radius + 0.1, CHROMA_COST * radius + 0.2]).flatten()
    return basis[cost.argsort()[:most]]
