"""Small text-only language model made from nothing, for a cold start without a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.policies.token.tokenizer import tagged_blocks, train_tokenizer
from rl.compat.torchvision import ensure_torchvision

HEAD_SIZE = 32
"""Smallest that vLLM's CPU attention takes."""
HIDDEN_SIZE = 128
NUM_LAYERS = 4
VOCABULARY_MULTIPLE = 16
MAX_POSITIONS = 1024


def build_language_model(
    directory: Path, *, texts: Iterable[str], block_names: Sequence[str], seed: int
) -> None:
    """Write a small, randomly initialised Qwen3 in the Hugging Face layout; 0.7 M parameters.

    Args:
        directory: Where to write; made if absent.
        texts: Every form that texts can have, for the tokenizer.
        block_names: The chain's blocks in order; a single one has no tags.
        seed: Of the initial weights.
    """
    tokenizer = train_tokenizer(texts, tagged_blocks(block_names), single_digits=True)
    write_qwen3(directory, tokenizer, num_ids=len(tokenizer), max_positions=MAX_POSITIONS, seed=seed)


def write_qwen3(directory: Path, tokenizer: Any, *, num_ids: int, max_positions: int, seed: int) -> None:
    """Write a small, randomly initialised Qwen3 with tied embeddings, and its tokenizer.

    Args:
        directory: Where to write; made if absent.
        tokenizer: Of its text.
        num_ids: Least size of its vocabulary.
        max_positions: Tokens of the longest context.
        seed: Of the initial weights.
    """
    ensure_torchvision()
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=-(-num_ids // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=HIDDEN_SIZE // HEAD_SIZE,
        num_key_value_heads=HIDDEN_SIZE // HEAD_SIZE,
        head_dim=HEAD_SIZE,
        max_position_embeddings=max_positions,
        initializer_range=HIDDEN_SIZE**-0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
