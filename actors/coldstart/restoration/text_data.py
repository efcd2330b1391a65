"""Training data of the text policy's cold start: true chains and their pictures as patches, made once.

Letters: N examples, B rows, S expanded tokens (padded), P patches, d values a patch, V ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from actors.coldstart.chains import ChainWriter
from actors.coldstart.supervised import rows_of_rank
from actors.policies.token.policy import MODEL, TokenPolicy
from actors.policies.token.tokenizer import encode
from actors.policies.token.vocabulary import TextVocabulary
from rl.chain.grammar import ChainGrammar
from rl.errors import DataError
from rl.restoration.answers import right_answer
from rl.restoration.labels import VOCABULARY
from rl.restoration.names import CAPTIONS, LABELS, degraded_of, words_of
from rl.seeding import derive_seed
from rl.types import Example, Prompt

COLLATE_ROWS = 64
"""Examples turned to patches at a time."""
NOT_AN_ACTION = -100
"""Target where nothing is learned (what ``cross_entropy`` ignores)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDataset:
    """Whole chains with their pictures as patches, made once."""

    input_ids: Tensor
    """``[N, S]`` int64: placeholders expanded, padded behind the end."""
    position_ids: Tensor
    """``[N, 3, S]`` int64: time, height, width."""
    targets: Tensor
    """``[N, S]`` int64: the id to be sampled at each position, or ``NOT_AN_ACTION``."""
    lengths: Tensor
    """``[N]`` int64: tokens of each row."""
    patches: Tensor
    """``[N, P, d]`` float16: of the degraded photo, then of each picture in the context."""
    grids: Tensor
    """``[pictures, 3]`` int64: patches in time, height and width; equal in all rows."""
    slots: Tensor
    """``[N, 5]`` int64: the right word of each degradation slot."""
    words: Tensor
    """``[N, V]`` bool: ids that occur in the captions."""


def make_dataset(
    prompts: Sequence[Prompt],
    *,
    grammar: ChainGrammar,
    vocabulary: TextVocabulary,
    tokenizer: Any,
    policy: TokenPolicy,
    seed: int,
) -> TextDataset:
    """Put true chains together and turn their pictures into patches.

    A picture in the context lies at random between the truth and the enlarged degraded photo: when the policy
    is used, it is the image policy's own, which may be as blurred as either.

    Args:
        prompts: Each with labels and captions, all degraded photos of one size.
        grammar: Of the chain; every chain is checked by it.
        vocabulary: The text policy's.
        tokenizer: The text policy's.
        policy: Turns pictures into patches the way it will in RL.
        seed: Of the pictures in the context.

    Raises:
        DataError: If labels or captions are missing, a text does not fit its block, or photos differ in size.
    """
    if len({degraded_of(prompt).shape for prompt in prompts}) != 1:
        raise DataError("the text cold start wants degraded photos of one size")
    num_ids = int(policy.model.config.get_text_config().vocab_size)
    writer = ChainWriter(
        grammar=grammar, vocabulary=vocabulary, tokenizer=tokenizer, pictures=policy.pictures
    )
    blocks = dict(zip(grammar.names, grammar.blocks, strict=True))
    parts = []
    for first in range(0, len(prompts), COLLATE_ROWS):
        some = prompts[first : first + COLLATE_ROWS]
        parts.append(_rows(policy, [writer.example(p, right_answer(p, blocks, seed)) for p in some]))
    length = max(part["input_ids"].shape[1] for part in parts)
    fills = {"input_ids": 0, "position_ids": 0, "targets": NOT_AN_ACTION}

    def join(name: str) -> Tensor:
        if name not in fills:
            return torch.cat([part[name] for part in parts])
        return torch.cat([F.pad(p[name], (0, length - p[name].shape[-1]), value=fills[name]) for p in parts])

    return TextDataset(
        input_ids=join("input_ids"),
        position_ids=join("position_ids"),
        targets=join("targets"),
        lengths=join("lengths"),
        patches=join("patches"),
        grids=parts[0]["grids"],
        slots=torch.tensor([_slot_ids(prompt) for prompt in prompts]),
        words=torch.stack([_word_mask(prompt, tokenizer, num_ids) for prompt in prompts]),
    )


def batches(
    dataset: TextDataset, *, batch_size: int, seed: int, rank: int = 0, world: int = 1, head_batches: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Yield training batches without end, every example once before any comes again.

    Args:
        dataset: From ``make_dataset``.
        batch_size: Rows over all ranks.
        seed: Of the order.
        rank: This worker; ranks take different rows of the same order.
        world: Number of workers.
        head_batches: The first batches teach the head alone.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "text teacher"))
    shares = rows_of_rank(
        len(dataset.slots), batch_size=batch_size, generator=generator, rank=rank, world=world
    )
    for count, rows in enumerate(shares):
        yield _batch(dataset, rows, has_chains=count >= head_batches)


def _batch(dataset: TextDataset, rows: Tensor, *, has_chains: bool) -> dict[str, Tensor]:
    """Take some rows; of chains, no more columns than the longest needs."""
    grids = dataset.grids if has_chains else dataset.grids[:1]
    batch = {
        "patches": dataset.patches[rows, : int(grids.prod(1).sum())].float(),
        "grids": grids,
        "slots": dataset.slots[rows],
        "words": dataset.words[rows].float(),
    }
    if has_chains:
        length = int(dataset.lengths[rows].max())
        batch["input_ids"] = dataset.input_ids[rows, :length]
        batch["position_ids"] = dataset.position_ids[rows, :, :length].transpose(0, 1).contiguous()
        batch["targets"] = dataset.targets[rows, :length]
    return batch


# --------------------------------------------------------------------------------- examples


def _rows(policy: TokenPolicy, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Collate some examples the way the learner does, one row each."""
    batch, num = policy.collate(examples), len(examples)
    inputs = {name.removeprefix(MODEL): tensor for name, tensor in batch.inputs.items()}
    input_ids = inputs["input_ids"]
    targets = torch.full_like(input_ids, NOT_AN_ACTION)
    targets[inputs["row_of"], inputs["column"] - 1] = inputs["target"]
    last = torch.where(targets != NOT_AN_ACTION, torch.arange(input_ids.shape[1]), 0).amax(1)
    grids = inputs["image_grid_thw"]
    position_ids, _ = policy.model.model.get_rope_index(
        input_ids, mm_token_type_ids=inputs["mm_token_type_ids"], image_grid_thw=grids
    )
    patches = inputs["pixel_values"]
    return {
        "input_ids": input_ids,
        "position_ids": position_ids.transpose(0, 1),
        "targets": targets,
        "lengths": last + 1,
        "patches": patches.view(num, -1, patches.shape[-1]).half(),
        "grids": grids.view(num, -1, 3)[0],
    }


def _slot_ids(prompt: Prompt) -> list[int]:
    """Number the right word of each slot.

    Raises:
        DataError: If a word is none of its slot's.
    """
    labels = words_of(prompt, LABELS)
    if len(labels) != len(VOCABULARY) or any(w not in v for w, v in zip(labels, VOCABULARY, strict=True)):
        raise DataError(f"{prompt.prompt_id}: the text cold start needs degradation labels, got {labels}")
    return [words.index(word) for word, words in zip(labels, VOCABULARY, strict=True)]


def _word_mask(prompt: Prompt, tokenizer: Any, num_ids: int) -> Tensor:
    """Mark the ids of the captions, ``[V]`` bool."""
    mask = torch.zeros(num_ids, dtype=torch.bool)
    for caption in words_of(prompt, CAPTIONS):
        mask[encode(tokenizer, caption)] = True
    return mask
