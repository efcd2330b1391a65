"""Vocabulary of a text policy: one token a tag, ids that may never be sampled, text and prompts to ids and back.

Works with any Qwen2.5-VL tokenizer; ``train_tokenizer`` makes a small one from our own texts. Everything the
chain needs to know of it is in ``TextVocabulary``, which travels between processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.chain.grammar import TagVocabulary
from rl.errors import ConfigError, DataError
from rl.types import Message, PicturePart

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
PICTURE = (VISION_START, IMAGE_PAD, VISION_END)
"""Stands for a picture in the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextVocabulary:
    """What the chain needs to know of a text policy."""

    tags: TagVocabulary
    encode: Encoder
    forbidden_ids: tuple[int, ...]
    """Ids that are never sampled, sorted: vision, end, special ones and those without a meaning."""
    decode: Decoder


class Encoder:
    """Messages to ids, as a policy without a chat template takes them: the parts of one turn, in order."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode a prompt, one placeholder a picture.

        Raises:
            DataError: If it is a conversation of several turns.
        """
        if len(messages) > 1:
            raise DataError(
                f"this text policy has no chat template and takes one message, got {len(messages)}"
            )
        ids: list[int] = []
        for part in (part for message in messages for part in message.parts):
            if isinstance(part, PicturePart):
                ids += [token_id(self._tokenizer, token) for token in PICTURE]
            else:
                ids += encode(self._tokenizer, part.text)
        return tuple(ids)


class Decoder:
    """Ids to text. Tags are kept, special tokens are left out, nothing is cleaned up."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, ids: Sequence[int]) -> str:
        """Decode ids of a chain; the text encodes to the same ids where the tokenizer wrote them."""
        text: str = self._tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def train_tokenizer(texts: Iterable[str], block_names: Sequence[str]) -> Any:
    """Train a byte-level BPE tokenizer in which every word of ``texts`` is one token.

    Args:
        texts: All forms that texts can have.
        block_names: The chain's blocks; each gets an opening and a closing tag token.

    Returns:
        A ``PreTrainedTokenizerFast`` that encodes any text and decodes it unchanged.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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
    tags = [tag for name in block_names for tag in (opening_tag(name), closing_tag(name))]
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return tokenizer


def load_tokenizer(directory: Path) -> Any:
    """Read the tokenizer of a checkpoint directory."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def load_vocabulary(directory: Path, block_names: Sequence[str]) -> TextVocabulary:
    """Read everything the chain needs to know of the text policy in ``directory``.

    Raises:
        ConfigError: If a tag is not one token of its own.
    """
    tokenizer = load_tokenizer(directory)
    return TextVocabulary(
        tags=tag_vocabulary(tokenizer, block_names),
        encode=Encoder(tokenizer),
        forbidden_ids=forbidden_ids(tokenizer, block_names, vocabulary_size(directory)),
        decode=Decoder(tokenizer),
    )


def vocabulary_size(directory: Path) -> int:
    """Return the number of ids the model in ``directory`` scores; at least that of its tokenizer."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(directory, trust_remote_code=False).get_text_config().vocab_size)


def opening_tag(name: str) -> str:
    """Return the tag that opens block ``name``."""
    return f"<{name}>"


def closing_tag(name: str) -> str:
    """Return the tag that closes block ``name``."""
    return f"</{name}>"


def tag_vocabulary(tokenizer: Any, block_names: Sequence[str]) -> TagVocabulary:
    """Look up every id that has a meaning in the grammar.

    Raises:
        ConfigError: If a tag or a picture token is not one token of its own.
    """
    vocabulary = tokenizer.get_vocab()
    plain = set(vocabulary.values()) - set(tokenizer.all_special_ids)
    return TagVocabulary(
        opening={name: token_id(tokenizer, opening_tag(name)) for name in block_names},
        closing={name: token_id(tokenizer, closing_tag(name)) for name in block_names},
        picture=tuple(token_id(tokenizer, token) for token in PICTURE),
        placeholder=token_id(tokenizer, IMAGE_PAD),
        whitespace=frozenset(i for i in plain if tokenizer.decode([i]).isspace()),
        end=frozenset({token_id(tokenizer, END), tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}),
    )


def token_id(tokenizer: Any, token: str) -> int:
    """Return the id of a token that must exist.

    Raises:
        ConfigError: If it is not one token.
    """
    index: int | None = tokenizer.get_vocab().get(token)
    if index is None:
        raise ConfigError(
            f"the tokenizer has no token {token}; run the cold start, or add it to the checkpoint"
        )
    return index


def forbidden_ids(tokenizer: Any, block_names: Sequence[str], size: int) -> tuple[int, ...]:
    """List the ids a policy may not sample: every special token, and ids without a token.

    A sampled vision token would ask the learner for a picture that does not exist, and an end token would
    end a request that only a tag may end.

    Args:
        tokenizer: The policy's.
        block_names: Tags of these blocks are allowed whatever the tokenizer calls them.
        size: Number of ids the model scores.
    """
    tags = {token_id(tokenizer, tag(name)) for name in block_names for tag in (opening_tag, closing_tag)}
    vocabulary = tokenizer.get_vocab()
    special = {
        vocabulary[token] for token in (*SPECIAL, *tokenizer.all_special_tokens) if token in vocabulary
    }
    special |= {i for token, i in tokenizer.get_added_vocab().items() if token.startswith("<|")}
    return tuple(sorted((special | (set(range(size)) - set(vocabulary.values()))) - tags))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Encode text, tags included, without adding anything."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
