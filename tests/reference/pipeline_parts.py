"""Parts of small random pipelines: tokenizers, text encoders, autoencoders and nets, made in place.

Tokenizers and text encoders are made once a process. A part's weights depend on its sizes and its seed alone,
and none of its parameters is all zero: a net as its constructor leaves it may ignore text, picture and time.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from tests.reference import language_models

WIDTH = 32
"""Of every text encoder's answer, unless said."""
LATENT_CHANNELS = 4


def drawn(make: Callable[..., Any], *args: Any, seed: int = 0, gain: float = 1.0, **sizes: Any) -> Any:
    """A module in evaluation mode, its matrices times ``gain``; the process's own random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = make(*args, **sizes)
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
            elif parameter.ndim > 1:
                parameter.mul_(gain)
    return module.eval()


@cache
def clip_tokenizer() -> Any:
    """CLIP's, without merges: a letter is a token, another one at the end of a word."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77
    )


@cache
def t5_tokenizer() -> Any:
    """T5's: a letter is a token."""
    from transformers import T5Tokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((letter, -3.0) for letter in letters),
    ]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


@cache
def chat_tokenizer() -> Any:
    """One with Qwen's chat template."""
    return language_models.tokenizer()


@cache
def clip_encoder(*, width: int = WIDTH, is_projected: bool = False, seed: int = 0) -> Any:
    """Two layers, so that there is a last but one; projected to its own width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_factor=2.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return drawn(CLIPTextModelWithProjection if is_projected else CLIPTextModel, config, seed=seed)


@cache
def t5_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=WIDTH,
        d_kv=8,
        d_ff=2 * WIDTH,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
    )
    return drawn(T5EncoderModel, config)


def clip_text(**config: Any) -> dict[str, Any]:
    """The arguments of a pipeline that reads with CLIP first."""
    return {"text_encoder": clip_encoder(**config), "tokenizer": clip_tokenizer()}


def t5_text(suffix: str = "") -> dict[str, Any]:
    """The arguments of a pipeline that reads with T5, first or not."""
    return {f"text_encoder{suffix}": t5_encoder(), f"tokenizer{suffix}": t5_tokenizer()}


def _decoder(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.1,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@cache
def gemma_encoder() -> Any:
    """Reads the ids of T5's tokenizer."""
    from transformers import Gemma2Config, Gemma2Model

    return drawn(Gemma2Model, Gemma2Config(**_decoder(t5_tokenizer()), max_position_embeddings=512))


@cache
def qwen3_encoder() -> Any:
    from transformers import Qwen3Config, Qwen3Model

    return drawn(Qwen3Model, Qwen3Config(**_decoder(chat_tokenizer())))


@cache
def qwen_vl_encoder() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    vision = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 4,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    text = _decoder(chat_tokenizer()) | {"rope_parameters": rope}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return drawn(Qwen2_5_VLForConditionalGeneration, config)


def autoencoder(num_halvings: int = 1, **config: Any) -> Any:
    """Latents of 4 channels, whose edge is the picture's halved so many times."""
    from diffusers import AutoencoderKL

    levels = num_halvings + 1
    sizes = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": (8, *(16,) * num_halvings),
        "layers_per_block": 1,
        "latent_channels": LATENT_CHANNELS,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    return drawn(AutoencoderKL, **sizes, **config)


def qwen_autoencoder() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return drawn(
        AutoencoderKLQwenImage,
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.7571, -0.7089, -0.9113, 0.1075],
        latents_std=[2.8184, 1.4541, 2.3275, 2.6558],
    )


def deep_autoencoder() -> Any:
    """Sana's class."""
    from diffusers import AutoencoderDC

    return drawn(
        AutoencoderDC,
        latent_channels=LATENT_CHANNELS,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.41407,
    )


def unet(*, in_channels: int = LATENT_CHANNELS, out_channels: int = LATENT_CHANNELS, **config: Any) -> Any:
    """Reads text at the coarser of its two resolutions."""
    from diffusers import UNet2DConditionModel

    sizes = {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "cross_attention_dim": WIDTH,
    }
    return drawn(UNet2DConditionModel, in_channels=in_channels, out_channels=out_channels, **(sizes | config))
