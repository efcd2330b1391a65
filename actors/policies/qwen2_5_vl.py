"""Qwen2.5-VL: makes a small one from nothing, and knows the family's names.

The adapter of one model family. ``actors.policies.token`` scores any model of it, small or released.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.policies.tokenizer import (
    END,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    token_id,
    train_tokenizer,
)
from rl.torchvision_compat import ensure_torchvision

HEAD_SIZE = 32
"""Smallest that vLLM's CPU attention takes."""
HIDDEN_SIZE = 128
NUM_LAYERS = 3
VISION_LAYERS = 2
MERGE = 2
"""Patches along each edge that are merged to one token."""
TOKENS_PER_EDGE = 4
"""A degraded photo costs ``TOKENS_PER_EDGE ** 2`` tokens."""
VOCABULARY_MULTIPLE = 16
MAX_POSITIONS = 2048


def build_text_policy(
    directory: Path,
    *,
    texts: Iterable[str],
    block_names: Sequence[str],
    degraded_px: int,
    output_px: int,
    seed: int,
) -> None:
    """Write a small, randomly initialised Qwen2.5-VL in the Hugging Face layout.

    Every picture is scaled by the image processor (the same code in vLLM and in the learner) to at least
    ``2 * degraded_px`` and at most half of ``output_px``, so that a degraded photo and a rough picture cost
    16 tokens.

    Args:
        directory: Where to write; made if absent.
        texts: Every form that texts can have, for the tokenizer.
        block_names: The chain's blocks in order.
        degraded_px: Edge of the degraded photo, pixels.
        output_px: Edge of the final picture, pixels.
        seed: Of the initial weights.
    """
    ensure_torchvision()
    from transformers import Qwen2_5_VLForConditionalGeneration

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, block_names)
    patch = max(1, 2 * degraded_px // (TOKENS_PER_EDGE * MERGE))
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer, patch))
    torch.set_rng_state(generator_state)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    edge = patch * MERGE * TOKENS_PER_EDGE
    _processor(tokenizer, patch, edge, max(edge, output_px // 2)).save_pretrained(directory)


def _config(tokenizer: Any, patch: int) -> Any:
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
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": VISION_LAYERS,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * HIDDEN_SIZE,
        "num_heads": heads,
        "patch_size": patch,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": patch * MERGE * TOKENS_PER_EDGE,
        "out_hidden_size": HIDDEN_SIZE,
        "fullatt_block_indexes": list(range(VISION_LAYERS)),
        "initializer_range": HIDDEN_SIZE**-0.5,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id(tokenizer, IMAGE_PAD),
        video_token_id=token_id(tokenizer, VIDEO_PAD),
        vision_start_token_id=token_id(tokenizer, VISION_START),
        vision_end_token_id=token_id(tokenizer, VISION_END),
        eos_token_id=token_id(tokenizer, END),
        tie_word_embeddings=False,
        dtype="float32",
    )


def _processor(tokenizer: Any, patch: int, min_edge: int, max_edge: int) -> Any:
    """Describe how pictures become patches."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    shared = {
        "patch_size": patch,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": min_edge**2, "longest_edge": max_edge**2},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared),
    )
