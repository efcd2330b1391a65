"""Model of a policy as the plan sees it, and those that may not be on this machine: numbers of their publishers.

Models that are here are read and counted by ``actors.policies.model_size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from configs.derive import COLDSTART, degraded_px
from configs.schema import Config, PromptTable

Fields = Mapping[str, Any]
PIXEL_RANGE = (3136, 12845056)
"""What Qwen2.5-VL's image processor scales pictures to where its files say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A policy's model."""

    name: str
    """Folder or hub name."""
    origin: Literal["read", "assumed"] = "assumed"
    """From a checkpoint on this machine, or from published numbers."""
    fields: Fields
    """Token policies: ``text_config`` and, where it sees, ``vision_config``; picture policies: ``config.json`` of the
    trained net."""
    num_trained: int
    """Parameters that learn and are published."""
    num_frozen: int = 0
    """Parameters that are run only (a picture policy's text encoder)."""
    patch: int = 8
    """Picture policies: pixels along the edge of a cell of a UNet's input, or of a transformer's token."""
    latents_a_pixel: float = 3.0
    """Picture policies: numbers of a latent over pixels of the picture."""
    pixel_range: tuple[int, int] = PIXEL_RANGE
    """Token policies: least and most pixels the image processor scales a picture to."""


def assumed_model(config: Config, policy: str) -> Model | None:
    """Return what is published of the model that a policy starts from, or None where we do not know it."""
    spec = config.policies[policy]
    model = ASSUMED[spec.kind].get(spec.source)
    if spec.kind == "denoising" and spec.source == COLDSTART and isinstance(config.data, PromptTable):
        return TEXT_TO_IMAGE
    # What the cold start makes scales every picture to the degraded photo's size.
    edge = degraded_px(config) if spec.source == COLDSTART else 0
    return replace(model, pixel_range=(edge**2, edge**2)) if model is not None and edge else model


_QWEN_VISION: Fields = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "patch_size": 14, "temporal_patch_size": 2,
    "spatial_merge_size": 2, "in_channels": 3,
}  # fmt: skip

ASSUMED: Mapping[str, Mapping[str, Model]] = {
    "token": {
        "Qwen/Qwen2.5-VL-3B-Instruct": Model(
            name="Qwen/Qwen2.5-VL-3B-Instruct",
            fields={
                "text_config": {
                    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008,
                    "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
                    "tie_word_embeddings": True,
                },
                "vision_config": {**_QWEN_VISION, "out_hidden_size": 2048},
            },
            num_trained=3_754_622_976,
        ),
        "Qwen/Qwen2.5-VL-7B-Instruct": Model(
            name="Qwen/Qwen2.5-VL-7B-Instruct",
            fields={
                "text_config": {
                    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
                    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
                    "tie_word_embeddings": False,
                },
                "vision_config": {**_QWEN_VISION, "out_hidden_size": 3584},
            },
            num_trained=8_292_166_656,
        ),
        "Qwen/Qwen3-VL-2B-Instruct": Model(
            name="Qwen/Qwen3-VL-2B-Instruct",
            fields={
                "text_config": {
                    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "head_dim": 128,
                    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
                    "tie_word_embeddings": True,
                },
                "vision_config": {
                    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "patch_size": 16,
                    "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3, "out_hidden_size": 2048,
                },
            },
            num_trained=2_127_532_032,
            pixel_range=(65536, 16777216),
        ),
        # What our own cold start makes (``actors.policies.token.qwen2_5_vl``), before it is made.
        COLDSTART: Model(
            name=COLDSTART,
            fields={
                "text_config": {
                    "vocab_size": 688, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
                },
                "vision_config": {
                    "depth": 1, "hidden_size": 256, "intermediate_size": 512, "patch_size": 8,
                    "temporal_patch_size": 2, "spatial_merge_size": 1, "in_channels": 3, "out_hidden_size": 128,
                },
            },
            num_trained=1_360_640,
        ),
    },
    "unified": {
        "BAAI/Emu3-Gen-hf": Model(
            name="BAAI/Emu3-Gen-hf",
            fields={
                "text_config": {
                    "vocab_size": 184622, "hidden_size": 4096, "intermediate_size": 14336,
                    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                    "tie_word_embeddings": False,
                },
            },
            num_trained=8_492_011_520,
        ),
        # What our own cold start makes (``actors.policies.unified.small``), before it is made.
        COLDSTART: Model(
            name=COLDSTART,
            fields={
                "text_config": {
                    "vocab_size": 1792, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
                    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True,
                },
            },
            num_trained=885_888,
        ),
    },
    "denoising": {
        "stabilityai/stable-diffusion-3-medium-diffusers": Model(
            name="stabilityai/stable-diffusion-3-medium-diffusers",
            fields={
                "_class_name": "SD3Transformer2DModel", "num_layers": 24, "num_attention_heads": 24,
                "attention_head_dim": 64, "in_channels": 16, "out_channels": 16, "patch_size": 2,
                "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "caption_projection_dim": 1536,
            },
            num_trained=2_028_328_000,
            # Two CLIP encoders, T5-XXL's encoder and the autoencoder.
            num_frozen=124_000_000 + 695_000_000 + 4_762_000_000 + 84_000_000,
            patch=16,
            latents_a_pixel=16 / 64,
        ),
        "stabilityai/stable-diffusion-3.5-medium": Model(
            name="stabilityai/stable-diffusion-3.5-medium",
            fields={
                "_class_name": "SD3Transformer2DModel", "num_layers": 24, "num_attention_heads": 24,
                "attention_head_dim": 64, "in_channels": 16, "out_channels": 16, "patch_size": 2,
                "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "caption_projection_dim": 1536,
                "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm", "pos_embed_max_size": 384,
            },
            num_trained=2_243_171_520,
            num_frozen=124_000_000 + 695_000_000 + 4_762_000_000 + 84_000_000,
            patch=16,
            latents_a_pixel=16 / 64,
        ),
        "stabilityai/stable-diffusion-x4-upscaler": Model(
            name="stabilityai/stable-diffusion-x4-upscaler",
            fields={
                "_class_name": "UNet2DConditionModel", "in_channels": 7, "out_channels": 4,
                "block_out_channels": [256, 512, 512, 1024], "layers_per_block": 2, "cross_attention_dim": 1024,
                "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
                "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
                "mid_block_type": "UNetMidBlock2DCrossAttn", "transformer_layers_per_block": 1,
                "attention_head_dim": 8, "norm_num_groups": 32, "num_class_embeds": 1000,
                "only_cross_attention": [True, True, True, False], "use_linear_projection": True,
            },
            num_trained=473_398_020,
            # OpenCLIP's text encoder and the autoencoder.
            num_frozen=340_387_840 + 55_325_927,
            patch=4,
            latents_a_pixel=4 / 16,
        ),
        # Likewise ``actors.policies.restoration.small``.
        COLDSTART: Model(
            name=COLDSTART,
            fields={
                "_class_name": "UNet2DConditionModel", "in_channels": 146, "out_channels": 48,
                "block_out_channels": [64, 64], "layers_per_block": 1, "cross_attention_dim": 32,
                "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
                "mid_block_type": "UNetMidBlock2DCrossAttn", "transformer_layers_per_block": 1,
                "attention_head_dim": 4, "norm_num_groups": 8,
            },
            num_trained=1_261_104,
            num_frozen=12_000,
            patch=4,
        ),
    },
}  # fmt: skip
"""By kind of policy and source. ``fields`` as far as sizes follow from them."""

# ``actors.policies.text_to_image.small`` at 32 px, before it is made.
TEXT_TO_IMAGE = Model(
    name=COLDSTART,
    fields={
        "_class_name": "SD3Transformer2DModel", "num_layers": 3, "num_attention_heads": 4, "attention_head_dim": 16,
        "in_channels": 3, "out_channels": 3, "patch_size": 2, "joint_attention_dim": 64,
        "pooled_projection_dim": 64, "caption_projection_dim": 64,
    },
    num_trained=438_284,
    num_frozen=84_097,
    patch=8,
    latents_a_pixel=3 / 16,
)  # fmt: skip
