"""Small random language models of several families, made in place in the Hugging Face layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.policies.token.qwen2_5_vl import build_text_policy
from actors.policies.token.tags import write_with_tags
from actors.policies.token.tokenizer import train_tokenizer
from rl.compat.torchvision import ensure_torchvision
from tests.reference.tiny_text import BLOCKS, build

TEXTS = ("light blur, heavy noise", "a cat on a red chair", "a rocket before the sky", "user assistant")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}PICTURE{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template like Qwen's."""
HEAD = 32
WIDTH = 64
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": WIDTH // HEAD,
    "num_key_value_heads": 1,
    "head_dim": HEAD,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
}


def tokenizer(picture: str = "", special: Sequence[str] = (), texts: Sequence[str] = TEXTS) -> Any:
    """A chat tokenizer that ends a turn with ``<|im_end|>``."""
    made = train_tokenizer(texts, ())
    made.add_special_tokens({"additional_special_tokens": list(special)}, replace_extra_special_tokens=False)
    made.eos_token = "<|im_end|>"
    made.chat_template = CHAT.replace("PICTURE", picture)
    return made


def _ids(made: Any) -> dict[str, Any]:
    return {
        "vocab_size": -(-len(made) // 16) * 16,
        "bos_token_id": None,
        "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
    }


def save(model: Any, directory: Path, *parts: Any) -> None:
    """Write a model with its tokenizer or processor; two ids end an answer, as in Qwen's chat models."""
    made = parts[0] if hasattr(parts[0], "eos_token_id") else parts[0].tokenizer
    model.generation_config.eos_token_id = [made.eos_token_id, made.pad_token_id]
    model.save_pretrained(directory)
    for part in parts:
        part.save_pretrained(directory)


def qwen3(directory: Path) -> None:
    """Tied embeddings."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    made = tokenizer()
    save(Qwen3ForCausalLM(Qwen3Config(**TEXT, **_ids(made), tie_word_embeddings=True)), directory, made)


def llama(directory: Path) -> None:
    """Untied, and a published vocabulary that is larger than the tokenizer's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tokenizer()
    config = LlamaConfig(**TEXT, **_ids(made) | {"vocab_size": len(made) + 100}, tie_word_embeddings=False)
    save(LlamaForCausalLM(config), directory, made)


def tagged(directory: Path) -> None:
    """Untied, and the tags of a chain of several blocks were added to it."""
    llama(directory / "plain")
    write_with_tags(directory / "plain", directory, BLOCKS, "float32")


def qwen2_5_vl(directory: Path) -> None:
    """Ours: three-dimensional positions, no chat template."""
    build(directory, is_tied=True)


def stock_qwen2_5_vl(directory: Path, texts: Sequence[str]) -> None:
    """The architecture of the shipped configurations, with the stock tokenizer's special tokens and no tag of ours."""
    build_text_policy(directory, texts=texts, block_names=(), degraded_px=16, seed=0)
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(directory)
    processor.chat_template = CHAT.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor.save_pretrained(directory)


def qwen3_vl(directory: Path, texts: Sequence[str] = TEXTS) -> None:
    """Pictures go into several layers; positions interleave."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    made = tokenizer(picture, texts=texts)
    vision = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": WIDTH // HEAD,
        "patch_size": 8,
        "spatial_merge_size": 1,
        "temporal_patch_size": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [4, 6, 6],
        "mrope_interleaved": True,
    }
    config = Qwen3VLConfig(
        text_config={**TEXT, **_ids(made), "rope_parameters": rope},
        vision_config=vision,
        **{
            f"{key}_token_id": made.convert_tokens_to_ids(f"<|{token}|>")
            for key, token in (
                ("image", "image_pad"),
                ("video", "video_pad"),
                ("vision_start", "vision_start"),
                ("vision_end", "vision_end"),
            )
        },
    )
    size = {"shortest_edge": 16**2, "longest_edge": 32**2}
    pixels = {"patch_size": 8, "merge_size": 1, "temporal_patch_size": 2, "size": size}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=made,
        video_processor=Qwen3VLVideoProcessor(**pixels),
        chat_template=made.chat_template,
    )
    save(Qwen3VLForConditionalGeneration(config), directory, processor)


def idefics3(directory: Path) -> None:
    """Another processor: pictures are cut to tiles, and stand between tokens of their own."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tiles = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    made = tokenizer("<image>", (*special, *tiles))
    edge, patch, scale = 32, 8, 2
    config = Idefics3Config(
        text_config={"model_type": "llama", **TEXT, **_ids(made)},
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": WIDTH // HEAD,
            "image_size": edge,
            "patch_size": patch,
        },
        scale_factor=scale,
        image_token_id=made.convert_tokens_to_ids("<image>"),
        pad_token_id=made.pad_token_id,
    )
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 2 * edge}, max_image_size={"longest_edge": edge}
        ),
        tokenizer=made,
        image_seq_len=(edge // patch) ** 2 // scale**2,
        chat_template=made.chat_template,
    )
    save(Idefics3ForConditionalGeneration(config), directory, processor)


MAKERS: dict[str, Callable[[Path], None]] = {
    "qwen3": qwen3,
    "llama": llama,
    "tagged": tagged,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "idefics3": idefics3,
}


def make(family: str, directory: Path) -> None:
    """Make a model from a fixed seed."""
    ensure_torchvision()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MAKERS[family](directory)


def block_names(family: str) -> tuple[str, ...]:
    """Two have tags; the others answer in a single block."""
    return BLOCKS if family in ("qwen2_5_vl", "tagged") else ("answer",)
