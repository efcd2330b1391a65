"""Vocabulary of a policy that writes text and pictures: text ids, codes, and what frames pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from actors.policies.token.checkpoint import load_config, local_directory
from actors.policies.token.tokenizer import load_tokenizer
from actors.policies.token.vocabulary import (
    Encoder,
    PictureMark,
    TextVocabulary,
    vocabulary_of,
)
from actors.policies.unified.picture_tokens import load_picture_ids
from rl.chain.plan import PictureTokens
from rl.types import Bools

TEXT_ROW, CODE_ROW = 0, 1
"""Rows of the masks: what may be sampled as text, and in a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnifiedVocabulary(TextVocabulary):
    """What a chain needs to know of a policy that writes text and pictures.

    ``forbidden_ids`` is empty: what is forbidden changes along a chain, and ``masks`` says it.
    """

    pictures: PictureTokens
    masks: Bools
    """``[2, V]``: ids that may be sampled as text, and as codes; an id is in one of them at most."""

    @property
    def begin(self) -> int:
        """Id that every picture begins with."""
        return self.pictures.layout(1, 1).opening[0]


def load_unified_vocabulary(
    source: Path, block_names: Sequence[str], options: Mapping[str, Any] | None = None
) -> UnifiedVocabulary:
    """Read everything the chain needs to know of a policy that writes text and pictures.

    Args:
        source: Checkpoint directory, or a hub name.
        block_names: The chain's blocks in order; a single one has no tags.
        options: Keyword arguments of the chat template.

    Raises:
        ConfigError: If a tag is not one token of its own, or it is not known which ids are codes.
    """
    directory = local_directory(source)
    config = load_config(directory)
    tokenizer = load_tokenizer(directory)
    ids = load_picture_ids(directory, tokenizer)
    begin = ids.tokens.layout(1, 1).opening[0]
    mark = PictureMark(text=tokenizer.convert_ids_to_tokens(begin) or "", ids=(begin,), placeholder=begin)
    encode = Encoder(tokenizer, tokenizer.chat_template, mark, is_typed=False, options=options or {})
    plain = vocabulary_of(directory, config, tokenizer, block_names, mark=mark, encode=encode)
    masks = np.zeros((2, int(config.get_text_config().vocab_size)), dtype=np.bool_)
    masks[CODE_ROW, list(ids.tokens.code_ids)] = True
    masks[TEXT_ROW] = ~masks[CODE_ROW]
    masks[TEXT_ROW, sorted({*plain.forbidden_ids, *ids.framing})] = False
    shared = {field.name: getattr(plain, field.name) for field in fields(plain)}
    return UnifiedVocabulary(**{**shared, "forbidden_ids": ()}, pictures=ids.tokens, masks=masks)
