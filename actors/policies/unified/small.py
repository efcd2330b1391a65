"""Small model of text and pictures made from nothing, for a cold start without a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.policies.token.small import HIDDEN_SIZE, write_qwen3
from actors.policies.token.tokenizer import tagged_blocks, train_tokenizer
from actors.policies.unified.picture_tokens import StoredPictureTokens, read_picture_tokens

MAX_SIZE = 64
"""Most rows, and columns, of codes that a picture can have."""
FRAMING = ("<|picture|>", "<|/picture|>", "<|row|>", *(f"<|size {n}|>" for n in range(1, MAX_SIZE + 1)))
"""Tokens of a picture's begin and end, of the end of a row, and of sizes."""


WEIGHTS, EMBEDDINGS = "model.safetensors", "model.embed_tokens.weight"
LIKENESS, NOISE = 0.9, 0.3
"""Shares of a code's vector and of chance in its first embedding."""


def build_unified(
    directory: Path,
    *,
    texts: Iterable[str],
    block_names: Sequence[str],
    num_codes: int,
    stride_px: int,
    max_positions: int,
    seed: int,
) -> None:
    """Write a small, randomly initialised Qwen3 over text ids, what frames pictures, and codes, in this order.

    Args:
        directory: Where to write the Hugging Face layout and ``picture_tokens.json``; made if absent.
        texts: Every form that texts can have, for the tokenizer.
        block_names: The chain's blocks in order; a single one has no tags.
        num_codes: Of the picture codec. Codes are ids without a token.
        stride_px: Edge of what a code stands for.
        max_positions: Tokens of the longest context.
        seed: Of the initial weights.
    """
    from tokenizers import AddedToken

    tokenizer = train_tokenizer(texts, tagged_blocks(block_names), single_digits=True)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in FRAMING])
    begin, end, row_end, first_size, *_ = tokenizer.convert_tokens_to_ids(list(FRAMING))
    num_text = len(tokenizer)
    num_ids = num_text + num_codes
    write_qwen3(directory, tokenizer, num_ids=num_ids, max_positions=max_positions, seed=seed)
    tokens = StoredPictureTokens(
        codes=((num_text, num_ids),),
        begin=begin,
        end=end,
        row_end=row_end,
        first_size=first_size - 1,
        max_size=MAX_SIZE,
        stride_px=stride_px,
    )
    tokens.write(directory)


def start_codes(directory: Path, vectors: Tensor, *, seed: int) -> None:
    """Let like codes start with like embeddings: what the model learns of one it then knows of those like it.

    A supervised start is as far after 40 steps as after 60 from embeddings at random.

    Args:
        directory: Of what ``build_unified`` wrote.
        vectors: The codec's codebook, ``[num_codes, d]``.
        seed: Of the rotation into the model's width, and of noise.
    """
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(HIDDEN_SIZE, vectors.shape[1], generator=generator)).Q
    rows = (vectors - vectors.mean(0)) @ rotation.T
    noise = torch.randn(rows.shape, generator=generator)
    weights = load_file(directory / WEIGHTS)
    ((first, stop),) = read_picture_tokens(directory).codes
    like = LIKENESS * rows / rows.square().mean().sqrt()
    weights[EMBEDDINGS][first:stop] = (like + NOISE * noise) * HIDDEN_SIZE**-0.5
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
