"""Supervised chains: right answers put together by walking the grammar, which proves each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.policies.token.pictures import PictureInputs
from actors.policies.token.tokenizer import closing_tag, encode, opening_tag
from actors.policies.token.vocabulary import TextVocabulary
from rl.chain.grammar import ChainGrammar
from rl.chain.state import ChainState, PaintImage, WriteText
from rl.data.source import Answer
from rl.errors import DataError
from rl.types import Example, Finish, Prompt, TextSampling, TokenStream


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainWriter:
    """Writes right answers as the token policy would have to."""

    grammar: ChainGrammar
    vocabulary: TextVocabulary
    tokenizer: Any
    pictures: PictureInputs | None
    """Expands pictures; None for a model that reads none."""

    def examples(self, answered: Sequence[tuple[Prompt, Answer]]) -> list[Example]:
        """Return a chain and its pictures for each prompt and its right answer.

        Raises:
            DataError: If a text does not fit its block.
        """
        return [self.example(prompt, answer) for prompt, answer in answered]

    def example(self, prompt: Prompt, answer: Answer) -> Example:
        """Return a chain and its pictures, as a learner takes them.

        Raises:
            DataError: If a text does not fit its block.
        """
        state = self.state(prompt, answer)
        # Every id that may be sampled may be taught.
        stream = state.stream(TextSampling(forbidden_ids=self.vocabulary.forbidden_ids))
        if stream is None:
            raise DataError("the text cold start needs a chain with text blocks")
        pictures = {**prompt.pictures, **answer.pictures}
        example = Example(segment=stream, pictures=tuple(pictures[name] for name in stream.pictures))
        return example if self.pictures is None else expanded(example, self.pictures)

    def state(self, prompt: Prompt, answer: Answer) -> ChainState:
        """Walk the grammar with the right texts.

        Raises:
            DataError: If a text is longer than its block, or does not fit the chain.
        """
        ids = prompt.tokens or self.vocabulary.encode(prompt.messages)
        state = ChainState(self.grammar, ids, pictures=prompt.shown)
        while isinstance(step := state.next_step(), WriteText | PaintImage):
            if isinstance(step, PaintImage):
                state.image_painted(step.block, 0)
                continue
            tokens = self._written(step, answer.texts[step.block])
            if len(tokens) > step.max_tokens:
                raise DataError(
                    f"{prompt.prompt_id}: <{step.block}> takes {len(tokens)} tokens; "
                    f"raise chain.{step.block}.max_tokens (now {step.max_tokens})"
                )
            state.text_written(tokens, [0.0] * len(tokens), stopped=True, version=0)
        if step.finish is not Finish.STOP:
            raise DataError(f"{prompt.prompt_id}: its texts do not fit the chain: {step.error}")
        return state

    def _written(self, step: WriteText, body: str) -> list[int]:
        """Return the ids of a block's request: its text, and what ends it."""
        if not self.grammar.is_tagged:
            ends = self.vocabulary.tags.end
            own = self.tokenizer.eos_token_id
            return [*encode(self.tokenizer, body), own if own in ends else min(ends)]
        written = f"{opening_tag(step.block)}{body}{closing_tag(step.block)}"
        following = self.grammar.names.index(step.block) + 1
        if self.grammar.is_image(following):
            written += opening_tag(self.grammar.names[following])
        return encode(self.tokenizer, written)


def expanded(example: Example, pictures: PictureInputs) -> Example:
    """Expand the pictures of a stream that no engine has seen, as it would.

    Args:
        example: Its stream has one placeholder a picture.
        pictures: Of the policy.
    """
    stream = example.segment
    assert isinstance(stream, TokenStream)
    parts = pictures.expanded(stream.tokens.tolist(), example.pictures)
    lengths = [len(part) for part in parts]
    whole = replace(
        stream,
        tokens=np.concatenate([np.asarray(part, dtype=np.int32) for part in parts]),
        action_mask=stream.action_mask.repeat(lengths),
        behaviour_logprobs=stream.behaviour_logprobs.repeat(lengths),
        block_of=stream.block_of.repeat(lengths),
    )
    return replace(example, segment=whole)
