"""Small random pipelines whose nets predict a flow's velocity."""

from __future__ import annotations

from typing import Any

from tests.reference import pipeline_parts as parts


def stable_diffusion_3() -> Any:
    """Two projected CLIP encoders, side by side as wide as the T5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    half = parts.WIDTH // 2
    net = parts.drawn(
        SD3Transformer2DModel,
        sample_size=16,
        in_channels=parts.LATENT_CHANNELS,
        out_channels=parts.LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=parts.WIDTH,
        pooled_projection_dim=2 * half,
    )
    return StableDiffusion3Pipeline(
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=parts.autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        **parts.clip_text(width=half, is_projected=True),
        text_encoder_2=parts.clip_encoder(width=half, is_projected=True, seed=1),
        tokenizer_2=parts.clip_tokenizer(),
        **parts.t5_text("_3"),
    )


def _flux(pipeline: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    net = parts.drawn(
        FluxTransformer2DModel,
        gain=2.0,
        in_channels=4 * parts.LATENT_CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.WIDTH,
        pooled_projection_dim=parts.WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return pipeline(
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        **parts.clip_text(),
        **parts.t5_text("_2"),
    )


def flux() -> Any:
    """Guidance is an input of the net."""
    from diffusers import FluxPipeline

    return _flux(FluxPipeline)


def flux_kontext() -> Any:
    """The photo is more tokens."""
    from diffusers import FluxKontextPipeline

    return _flux(FluxKontextPipeline)


def qwen_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel

    net = parts.drawn(
        QwenImageTransformer2DModel,
        in_channels=4 * parts.LATENT_CHANNELS,
        out_channels=parts.LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    return QwenImagePipeline(
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=parts.qwen_autoencoder(),
        text_encoder=parts.qwen_vl_encoder(),
        tokenizer=parts.chat_tokenizer(),
    )


def sana() -> Any:
    """Ships a multistep scheduler of the eps kind that holds flow's levels."""
    from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    net = parts.drawn(
        SanaTransformer2DModel,
        in_channels=parts.LATENT_CHANNELS,
        out_channels=parts.LATENT_CHANNELS,
        num_layers=1,
        num_attention_heads=4,
        attention_head_dim=8,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=parts.WIDTH,
        sample_size=16,
    )
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return SanaPipeline(
        transformer=net,
        scheduler=scheduler,
        vae=parts.deep_autoencoder(),
        text_encoder=parts.gemma_encoder(),
        tokenizer=parts.t5_tokenizer(),
    )


def z_image() -> Any:
    """The net counts time backwards and the pipeline negates its answer."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    net = parts.drawn(
        ZImageTransformer2DModel,
        in_channels=parts.LATENT_CHANNELS,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=parts.WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
    )
    return ZImagePipeline(
        transformer=net,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=parts.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=parts.qwen3_encoder(),
        tokenizer=parts.chat_tokenizer(),
    )


def own_pipeline() -> Any:
    """Works on pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from tests.reference.own_pipeline.pipeline import OwnPipeline

    net = parts.unet(in_channels=3, out_channels=3, sample_size=32)
    return OwnPipeline(unet=net, scheduler=FlowMatchEulerDiscreteScheduler(), **parts.clip_text())
