"""Tokenizers: the tags of blocks, and a small tokenizer trained from texts.

What the chain needs to know of a checkpoint's is in ``actors.policies.token.vocabulary``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rl.errors import ConfigError

END = "<|endoftext|>"
VISION_START = "<|vision_start|>"
IMAGE_PAD = "<|image_pad|>"
VISION_END = "<|vision_end|>"
VIDEO_PAD = "<|video_pad|>"
SPECIAL = (
    END,
    "<|im_start|>",
    "<|im_end|>",
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE_PAD,
    VIDEO_PAD,
)
"""Qwen2.5-VL's special tokens that a policy without chat and tools needs."""


def train_tokenizer(texts: Iterable[str], block_names: Sequence[str], *, single_digits: bool = False) -> Any:
    """Train a byte-level BPE tokenizer in which every word of ``texts`` is one token.

    Args:
        texts: All forms that texts can have.
        block_names: The chain's blocks; each gets an opening and a closing tag token.
        single_digits: Whether every digit is a token of its own, so that numbers are read place by place.

    Returns:
        A ``PreTrainedTokenizerFast`` that encodes any text and decodes it unchanged.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    model.pre_tokenizer = pre_tokenizers.Sequence([digits, words]) if single_digits else words
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    model.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    add_tags(tokenizer, block_names)
    return tokenizer


def tagged_blocks(block_names: Sequence[str]) -> Sequence[str]:
    """Return the blocks of a chain that have tags: none where there is a single one."""
    return block_names if len(block_names) > 1 else ()


def lacking_tags(tokenizer: Any, block_names: Sequence[str]) -> list[str]:
    """Return the tags of blocks that are not one token."""
    known = tokenizer.get_vocab()
    return [tag for tag in _tags(block_names) if tag not in known]


def tag_ids(tokenizer: Any, block_names: Sequence[str]) -> tuple[int, ...]:
    """Return the ids of a chain's tags, sorted; those of tags that are not one token are left out."""
    known = tokenizer.get_vocab()
    return tuple(sorted(known[tag] for tag in _tags(tagged_blocks(block_names)) if tag in known))


def _tags(block_names: Sequence[str]) -> list[str]:
    return [tag for name in block_names for tag in (opening_tag(name), closing_tag(name))]


def add_tags(tokenizer: Any, block_names: Sequence[str]) -> None:
    """Make every tag one token."""
    from tokenizers import AddedToken

    tags = lacking_tags(tokenizer, block_names)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])


def load_tokenizer(directory: Path) -> Any:
    """Read the tokenizer of a checkpoint directory."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def opening_tag(name: str) -> str:
    """Return the tag that opens block ``name``."""
    return f"<{name}>"


def closing_tag(name: str) -> str:
    """Return the tag that closes block ``name``."""
    return f"</{name}>"


def token_id(tokenizer: Any, token: str) -> int:
    """Return the id of a token that must exist.

    Raises:
        ConfigError: If it is not one token.
    """
    index: int | None = tokenizer.get_vocab().get(token)
    if index is None:
        raise ConfigError(
            f"the checkpoint's tokenizer has no token {token}; train it on supervised chains first, which adds it "
            "(policies.<name>.coldstart=true)"
        )
    return index


def encode(tokenizer: Any, text: str) -> list[int]:
    """Encode text, tags included, without adding anything."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
