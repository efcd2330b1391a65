"""Tags in a checkpoint that has none: tokens, and rows of the embeddings that start where their pieces are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from actors.policies.token.checkpoint import load_model, sees_pictures
from actors.policies.token.tokenizer import add_tags, encode, lacking_tags, load_tokenizer, tagged_blocks
from actors.policies.token.vocabulary import load_processor

MULTIPLE = 64
"""A vocabulary that must grow grows to a multiple of it, which matrices are fastest at."""


def write_with_tags(source: Path, directory: Path, block_names: Sequence[str], dtype: str) -> None:
    """Write a checkpoint again, with a token for every tag of the chain.

    Args:
        source: Hugging Face layout.
        directory: Where to write; made if absent.
        block_names: The chain's blocks; a single one has no tags.
        dtype: Of the weights in memory and in the file.
    """
    tokenizer, model = load_tokenizer(source), load_model(source, dtype)
    tagged = tagged_blocks(block_names)
    pieces = {tag: encode(tokenizer, tag) for tag in lacking_tags(tokenizer, tagged)}
    add_tags(tokenizer, tagged)
    # Padded vocabularies have room; they are never made smaller.
    num_ids = int(model.config.get_text_config().vocab_size)
    if len(tokenizer) > num_ids:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=MULTIPLE, mean_resizing=False)
    for matrix in {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings())}.values():
        rows = {tokenizer.convert_tokens_to_ids(tag): ids for tag, ids in pieces.items()}
        _start_rows(matrix.weight, num_ids, rows)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if sees_pictures(model.config):
        processor = load_processor(source)
        processor.tokenizer = tokenizer
        processor.save_pretrained(directory)


@torch.no_grad()
def _start_rows(weight: Any, num_ids: int, pieces: dict[int, list[int]]) -> None:
    """Set the rows of new tokens to the means of their pieces' rows, and what fills up behind them to that of all."""
    means = {row: weight[ids].float().mean(0).to(weight.dtype) for row, ids in pieces.items()}
    weight[num_ids:] = weight[:num_ids].float().mean(0).to(weight.dtype)
    for row, mean in means.items():
        weight[row] = mean
