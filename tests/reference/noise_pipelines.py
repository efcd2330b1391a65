"""Small random pipelines whose nets predict noise, or v."""

from __future__ import annotations

from typing import Any

from tests.reference import pipeline_parts as parts

STABLE_DIFFUSION_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _stable_diffusion(prediction: str) -> Any:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    scheduler = PNDMScheduler(
        **STABLE_DIFFUSION_BETAS, skip_prk_steps=True, steps_offset=1, prediction_type=prediction
    )
    return StableDiffusionPipeline(
        unet=parts.unet(),
        scheduler=scheduler,
        vae=parts.autoencoder(),
        **parts.clip_text(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion() -> Any:
    """The net predicts the noise."""
    return _stable_diffusion("epsilon")


def stable_diffusion_v() -> Any:
    return _stable_diffusion("v_prediction")


def stable_diffusion_xl() -> Any:
    """Reads both encoders' last but one layer, side by side, and the sizes."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    time_width = 8
    net = parts.unet(
        cross_attention_dim=2 * parts.WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=6 * time_width + parts.WIDTH,
    )
    return StableDiffusionXLPipeline(
        unet=net,
        scheduler=EulerDiscreteScheduler(
            **STABLE_DIFFUSION_BETAS, steps_offset=1, timestep_spacing="leading"
        ),
        vae=parts.autoencoder(scaling_factor=0.13025),
        **parts.clip_text(),
        text_encoder_2=parts.clip_encoder(is_projected=True, seed=1),
        tokenizer_2=parts.clip_tokenizer(),
    )


def stable_diffusion_upscale() -> Any:
    """Paints four times the photo, which is three of the net's channels."""
    from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline

    betas = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    return StableDiffusionUpscalePipeline(
        unet=parts.unet(in_channels=parts.LATENT_CHANNELS + 3, num_class_embeds=1000),
        scheduler=DDIMScheduler(
            **betas, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        vae=parts.autoencoder(num_halvings=2, scaling_factor=0.08333),
        **parts.clip_text(),
    )


def instruct_pix2pix() -> Any:
    """Two scales of guidance, by text and by photo."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline

    return StableDiffusionInstructPix2PixPipeline(
        unet=parts.unet(in_channels=2 * parts.LATENT_CHANNELS),
        scheduler=EulerAncestralDiscreteScheduler(**STABLE_DIFFUSION_BETAS, steps_offset=1),
        vae=parts.autoencoder(),
        **parts.clip_text(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pixart_sigma() -> Any:
    """A transformer that predicts noise and, in the other half of its channels, variance."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    net = parts.drawn(
        PixArtTransformer2DModel,
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=parts.LATENT_CHANNELS,
        out_channels=2 * parts.LATENT_CHANNELS,
        num_layers=1,
        cross_attention_dim=32,
        caption_channels=parts.WIDTH,
        sample_size=16,
        norm_type="ada_norm_single",
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        transformer=net,
        scheduler=DPMSolverMultistepScheduler(),
        vae=parts.autoencoder(scaling_factor=0.13025),
        **parts.t5_text(),
    )
