"""Architectures of models that may not be on this machine: numbers of their published configurations.

The plan says of such a model that its size is assumed. Keys are hub names; ``coldstart`` is what our own cold start
makes (``actors.policies.token.qwen2_5_vl``, ``actors.policies.denoising.small``), before it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]

_QWEN_VISION: Fields = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "patch_size": 14, "temporal_patch_size": 2,
    "spatial_merge_size": 2, "in_channels": 3,
}  # fmt: skip

TEXT_MODELS: Mapping[str, Fields] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "text_config": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True,
        },
        "vision_config": {**_QWEN_VISION, "out_hidden_size": 2048},
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "text_config": {
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
        },
        "vision_config": {**_QWEN_VISION, "out_hidden_size": 3584},
    },
    "coldstart": {
        "text_config": {
            "vocab_size": 688, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
        },
        "vision_config": {
            "depth": 1, "hidden_size": 256, "intermediate_size": 512, "patch_size": 8, "temporal_patch_size": 2,
            "spatial_merge_size": 1, "in_channels": 3, "out_hidden_size": 128,
        },
    },
}  # fmt: skip
"""Qwen2.5-VL's ``config.json``, as far as sizes follow from it."""

PICTURE_MODELS: Mapping[str, Fields] = {
    "stabilityai/stable-diffusion-3-medium-diffusers": {
        "_class_name": "SD3Transformer2DModel", "num_layers": 24, "num_attention_heads": 24,
        "attention_head_dim": 64, "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
    },
    "coldstart": {
        "_class_name": "UNet2DConditionModel", "in_channels": 146, "out_channels": 48,
        "block_out_channels": [64, 64], "layers_per_block": 1, "cross_attention_dim": 32,
        "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn", "transformer_layers_per_block": 1,
    },
}  # fmt: skip
"""A picture net's ``config.json``, as far as sizes follow from it."""

FROZEN_PARAMETERS: Mapping[str, int] = {
    # Two CLIP encoders, T5-XXL's encoder and the autoencoder.
    "stabilityai/stable-diffusion-3-medium-diffusers": 124_000_000 + 695_000_000 + 4_762_000_000 + 84_000_000,
    "coldstart": 12_000,
}
"""What a picture policy runs and does not train, parameters."""

EXPERT_PARAMETERS: Mapping[str, int] = {
    "cnniqa": 730_000, "topiq_nr": 45_200_000, "musiq": 27_100_000, "maniqa-pipal": 135_700_000,
    "clipiqa": 102_000_000,
}  # fmt: skip
"""Parameters of pyiqa metrics."""
UNKNOWN_EXPERT_PARAMETERS = 100_000_000
"""What a metric that is not in the table is taken for."""
REALSR_R1 = ("topiq_nr", "musiq", "maniqa-pipal", "clipiqa")
"""What ``experts: realsr_r1`` stands for."""
