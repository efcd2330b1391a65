"""Grammar of chains: their blocks, the token ids of its tags, and the paper's expression over its text.

Pure: knows token ids and block names, never engines or pictures. ``rl.chain.state`` applies it to one chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from configs.schema import BlockConfig
from rl.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TagVocabulary:
    """Token ids with a meaning in the grammar. All other ids are plain text."""

    opening: Mapping[str, int]
    """Id of ``<name>`` by block."""
    closing: Mapping[str, int]
    """Id of ``</name>`` by block."""
    picture: tuple[int, ...] = ()
    """Ids that stand for a picture in the context, e.g. vision start, placeholder, vision end."""
    placeholder: int = -1
    """The one of ``picture`` that the engine replaces by the picture."""
    whitespace: frozenset[int] = frozenset()
    """Ids that decode to nothing but whitespace."""
    end: frozenset[int] = frozenset()
    """End-of-sequence and padding ids."""

    def __post_init__(self) -> None:
        """Check that no tag id means two things and the placeholder stands for one picture."""
        tags = [*self.opening.values(), *self.closing.values()]
        others = {*self.picture, *self.whitespace, *self.end}
        if len(set(tags)) != len(tags) or others & set(tags):
            raise ConfigError("every tag needs a token id of its own, apart from picture, space and end ids")
        if self.picture and self.picture.count(self.placeholder) != 1:
            raise ConfigError(f"placeholder {self.placeholder} must occur once in {self.picture}")

    @property
    def reserved(self) -> frozenset[int]:
        """Ids that are never plain text: tags, picture ids and end ids."""
        return frozenset((*self.opening.values(), *self.closing.values(), *self.picture, *self.end))


class ChainGrammar:
    """What every chain of a run looks like. Shared by all its ``ChainState``s."""

    def __init__(
        self,
        blocks: Mapping[str, BlockConfig],
        tags: TagVocabulary | None = None,
        *,
        writer: str | None = None,
    ) -> None:
        """Check the chain.

        Args:
            blocks: Blocks by name, in order.
            tags: Token ids; None is enough for a chain without text blocks.
            writer: The policy that writes tokens; None is that of the text blocks.

        Raises:
            ConfigError: If the chain is empty, has two token policies, or a tag without an id.
        """
        self.names = tuple(blocks)
        self.blocks = tuple(blocks.values())
        policies = {block.policy for block in self.blocks if block.kind == "text"}
        if not 0 < len(self.names) <= np.iinfo(np.int8).max:
            raise ConfigError(f"chain: want 1 to 127 blocks, got {len(self.names)}")
        if len(policies) > 1:
            raise ConfigError(f"chain: one policy writes all text of a chain, got {sorted(policies)}")
        self.token_policy = writer or next(iter(policies), None)
        self.tags = tags or TagVocabulary(opening={}, closing={})
        self.is_tagged = len(self.names) > 1 or bool(self.tags.opening)
        """Whether tags lead through the chain; a single text block may end with the model's own end token."""
        if self.token_policy is not None and not self.is_tagged and not self.tags.end:
            raise ConfigError("chain: no token ends the answer of its only block")
        if self.token_policy is not None and self.is_tagged:
            lacking = [n for n in self.names if n not in self.tags.opening or n not in self.tags.closing]
            if lacking:
                raise ConfigError(f"chain: no token id for the tags of {lacking}")
            if any(block.kind == "image" for block in self.blocks[:-1]) and not self.tags.picture:
                raise ConfigError("chain: pictures enter the context, but no token ids stand for them")

    def is_image(self, index: int) -> bool:
        """Whether ``index`` is an image block; False past the end."""
        return index < len(self.blocks) and self.blocks[index].kind == "image"

    def last_ids(self, index: int) -> frozenset[int]:
        """Ids that end text block ``index`` rightly: its last tag, or without tags any end id."""
        if not self.is_tagged:
            return self.tags.end
        if self.is_image(index + 1):
            return frozenset({self.tags.opening[self.names[index + 1]]})
        return frozenset({self.tags.closing[self.names[index]]})

    def stop_ids(self, index: int) -> tuple[int, ...]:
        """Ids that end the request of text block ``index``: all reserved ones but its inner tags."""
        if not self.is_tagged:
            return tuple(sorted(self.tags.end))
        name = self.names[index]
        inner = {self.tags.opening[name], self.tags.closing[name]} - self.last_ids(index)
        return tuple(sorted(self.tags.reserved - inner))


def full_match(text: str, blocks: Iterable[str]) -> bool:
    """Whether a chain's text has the paper's form: every block once, in order, only whitespace between.

    The format reward's second opinion: it looks at decoded text and knows nothing of tokens. It is laxer than
    the grammar, which also refuses tags inside a body.

    Source:
        RealSR-R1's released ``format_reward``: ``re.fullmatch``, lazy bodies, DOTALL.
    """
    pattern = r"\s*".join(f"<{re.escape(name)}>.*?</{re.escape(name)}>" for name in blocks)
    return re.fullmatch(pattern, text, flags=re.DOTALL) is not None
