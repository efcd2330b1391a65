"""Vocabulary of a language model as chains use it: prompts to ids, ids to text, tags, ends, what is never sampled.

Everything is asked of the checkpoint: its chat template, its generation configuration, its processor. A chain of one
text block has no tags and ends with the model's own end token; in a chain of several blocks tags lead from one to the
next, and the end token is never sampled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.policies.token.checkpoint import load_config, local_directory, sees_pictures
from actors.policies.token.tokenizer import (
    closing_tag,
    encode,
    load_tokenizer,
    opening_tag,
    tagged_blocks,
    token_id,
)
from rl.chain.grammar import TagVocabulary
from rl.chain.state import Decode
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError, DataError
from rl.types import Message, PicturePart, TextPart

_MEDIA = re.compile(r"(image|video|vision|audio|boi|eoi)\w*_token_(id|index)")
"""Keys of configurations that name the ids which stand for pictures, videos and sound."""
_BEFORE, _BEHIND = "before the picture", "behind the picture"
"""Words between which a chat template puts a picture, to see what it makes of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextVocabulary:
    """What the chain needs to know of a text policy."""

    tags: TagVocabulary
    encode: Encoder
    forbidden_ids: tuple[int, ...]
    """Ids that are never sampled, sorted."""
    decode: Decode
    max_context: int
    """Tokens of the longest context that the model allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureMark:
    """What stands for a picture in a context that is not expanded yet."""

    text: str
    """The placeholder and what the chat template puts around it."""
    ids: tuple[int, ...]
    placeholder: int
    """The one of ``ids`` that the processor expands."""


class Encoder:
    """Messages to ids, one placeholder a picture: by the chat template, or bare where the checkpoint has none.

    Args:
        tokenizer: Of the checkpoint.
        template: The chat template; None where the checkpoint has none.
        mark: Of a picture; None for a model that reads none.
        is_typed: Whether the template takes messages in parts, and itself knows how a picture stands.
        options: Keyword arguments of the chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        mark: PictureMark | None,
        *,
        is_typed: bool,
        options: Mapping[str, Any],
    ) -> None:
        self._tokenizer, self._template, self._mark, self._options = tokenizer, template, mark, options
        self._is_typed = is_typed

    def __call__(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode a prompt.

        Raises:
            DataError: If it shows a picture to a model that reads none, or is a conversation and there is no template.
        """
        parts = [part for message in messages for part in message.parts]
        if self._mark is None and any(isinstance(part, PicturePart) for part in parts):
            raise DataError("the prompt shows a picture, and the text policy's model reads none")
        if self._template is not None:
            turns = [{"role": m.role, "content": self._content(m)} for m in messages]
            return tuple(
                encode(self._tokenizer, render(self._tokenizer, self._template, turns, self._options))
            )
        if len(messages) > 1:
            raise DataError(
                f"the text policy's checkpoint has no chat template, so a prompt is one message, got {len(messages)}"
            )
        ids: list[int] = []
        for part in parts:
            if isinstance(part, TextPart):
                ids += encode(self._tokenizer, part.text)
            elif self._mark is not None:
                ids += self._mark.ids
        return tuple(ids)

    def spell(self, text: str) -> list[int]:
        """Encode bare text, nothing added."""
        return encode(self._tokenizer, text)

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        """Return a message's content as the chat template takes it."""
        if self._is_typed:
            return [
                {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
                for part in message.parts
            ]
        mark = "" if self._mark is None else self._mark.text
        return "".join(part.text if isinstance(part, TextPart) else mark for part in message.parts)


def render(
    tokenizer: Any, template: str, turns: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> str:
    """Apply a chat template, up to where the model's answer begins.

    Raises:
        DataError: If the template refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            list(turns), chat_template=template, tokenize=False, add_generation_prompt=True, **options
        )
    except TemplateError as error:
        raise DataError(f"the chat template refuses the prompt's messages: {error}") from error
    return text


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


def load_processor(directory: Path) -> Any:
    """Read the processor of a checkpoint that reads pictures."""
    ensure_torchvision()
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(directory, trust_remote_code=False)


def load_vocabulary(
    source: Path, block_names: Sequence[str], options: Mapping[str, Any] | None = None
) -> TextVocabulary:
    """Read everything the chain needs to know of a text policy.

    Args:
        source: Checkpoint directory, or a hub name.
        block_names: The chain's blocks in order; a single one has no tags.
        options: Keyword arguments of the chat template.

    Raises:
        ConfigError: If a tag is not one token of its own.
    """
    directory = local_directory(source)
    config = load_config(directory)
    tokenizer = load_tokenizer(directory)
    template, mark = tokenizer.chat_template, None
    if sees_pictures(config):
        processor = load_processor(directory)
        template, mark = processor.chat_template, picture_mark(processor, tokenizer, config)
    encode = Encoder(tokenizer, template, mark, is_typed=mark is not None, options=options or {})
    return vocabulary_of(directory, config, tokenizer, block_names, mark=mark, encode=encode)


def vocabulary_of(
    directory: Path,
    config: Any,
    tokenizer: Any,
    block_names: Sequence[str],
    *,
    mark: PictureMark | None,
    encode: Encoder,
) -> TextVocabulary:
    """Put a vocabulary together.

    Args:
        directory: Of the checkpoint.
        config: Of the model.
        tokenizer: Of the checkpoint.
        block_names: The chain's blocks in order; a single one has no tags.
        mark: Of a picture; None for a model that reads none.
        encode: Of prompts.

    Raises:
        ConfigError: If a tag is not one token of its own.
    """
    ends = end_ids(directory, tokenizer, config)
    tags = tag_vocabulary(tokenizer, tagged_blocks(block_names), mark, ends)
    return TextVocabulary(
        tags=tags,
        encode=encode,
        forbidden_ids=forbidden_ids(tokenizer, tags, config),
        decode=Decoder(tokenizer),
        max_context=int(config.get_text_config().max_position_embeddings),
    )


def picture_mark(processor: Any, tokenizer: Any, config: Any) -> PictureMark:
    """Find out what stands for a picture in a context.

    Raises:
        ConfigError: If the processor does not say, or it is no single token.
    """
    # Gemma 3 repeats another token than the one that its texts have.
    token = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
    if token is None:
        raise ConfigError(f"{type(processor).__name__} does not say which token stands for a picture")
    if processor.chat_template is not None:
        parts = [{"type": "text", "text": _BEFORE}, {"type": "image"}, {"type": "text", "text": _BEHIND}]
        shown = render(tokenizer, processor.chat_template, [{"role": "user", "content": parts}], {})
        text = shown.partition(_BEFORE)[2].partition(_BEHIND)[0].strip()
    else:
        around = (getattr(config, f"vision_{side}_token_id", None) for side in ("start", "end"))
        before, behind = ("" if i is None else tokenizer.convert_ids_to_tokens(i) for i in around)
        text = f"{before}{token}{behind}"
    ids = tuple(encode(tokenizer, text))
    placeholder = token_id(tokenizer, token)
    if ids.count(placeholder) != 1:
        raise ConfigError(
            f"{type(processor).__name__}: a picture stands as {text!r} in its contexts, which has {token} not once"
        )
    return PictureMark(text=text, ids=ids, placeholder=placeholder)


def end_ids(directory: Path, tokenizer: Any, config: Any) -> frozenset[int]:
    """Return all ids that end an answer: those of the generation configuration, or else the model's and tokenizer's."""
    from transformers import GenerationConfig

    named: Any = None
    if (directory / "generation_config.json").is_file():
        named = GenerationConfig.from_pretrained(directory).eos_token_id
    if named is None:
        named = getattr(config.get_text_config(), "eos_token_id", None)
    ids = {named} if isinstance(named, int) else set(named or ())
    return frozenset(int(i) for i in ids | {tokenizer.eos_token_id} if i is not None)


def tag_vocabulary(
    tokenizer: Any, block_names: Sequence[str], mark: PictureMark | None, ends: frozenset[int]
) -> TagVocabulary:
    """Look up every id that has a meaning in the grammar.

    Args:
        tokenizer: Of the checkpoint.
        block_names: Blocks that have tags; none where the chain is a single block.
        mark: Of a picture; None for a model that reads none.
        ends: Ids that end an answer.

    Raises:
        ConfigError: If a tag is not one token of its own.
    """
    plain = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    padding = {tokenizer.pad_token_id} - {None}
    return TagVocabulary(
        opening={name: token_id(tokenizer, opening_tag(name)) for name in block_names},
        closing={name: token_id(tokenizer, closing_tag(name)) for name in block_names},
        picture=() if mark is None else mark.ids,
        placeholder=-1 if mark is None else mark.placeholder,
        whitespace=frozenset(i for i in plain if tokenizer.decode([i]).isspace())
        if block_names
        else frozenset(),
        end=ends | padding if block_names else ends,
    )


def forbidden_ids(tokenizer: Any, tags: TagVocabulary, config: Any) -> tuple[int, ...]:
    """List the ids a policy may not sample: few, whatever the size of the vocabulary.

    Ids without a token, and what stands for pictures and the like (a sampled one would ask the learner for a picture
    that does not exist). Where tags lead through the chain every special token too: an end token would end a request
    that only a tag may end. Where they do not, special tokens are the model's own way to answer.

    Args:
        tokenizer: Of the checkpoint.
        tags: Of the chain.
        config: The model's configuration.
    """
    media = {value for key, value in config.to_dict().items() if _MEDIA.fullmatch(key) and value is not None}
    nameless = set(range(int(config.get_text_config().vocab_size))) - set(tokenizer.get_vocab().values())
    forbidden = media | {*tags.picture} | nameless
    if not tags.opening:
        return tuple(sorted(forbidden - tags.end))
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    kept = {*tags.opening.values(), *tags.closing.values()}
    return tuple(sorted((forbidden | special | set(tokenizer.all_special_ids)) - kept))
