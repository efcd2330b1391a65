"""Supervised chains of a unified policy: right texts and true pictures in one stream, put together by its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actors.policies.unified.codec import PictureCodec
from actors.policies.unified.vocabulary import UnifiedVocabulary
from configs.schema import BlockConfig
from rl.chain.plan import walked
from rl.chain.shown import seen, with_codes
from rl.data.source import Answer
from rl.errors import DataError
from rl.seeding import derive_seed
from rl.types import ChainPlan, Example, Ints, Prompt, TextSampling, TokenStream

ALONE_SHARE = 0.1
"""Share of the chains of which one picture is taught by itself, with nothing before it: the other half of guidance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeChainWriter:
    """Writes right answers as a unified policy would have to."""

    chain: Mapping[str, BlockConfig]
    plan: ChainPlan
    vocabulary: UnifiedVocabulary
    codec: PictureCodec
    seed: int
    """Of which pictures are taught by themselves."""

    def examples(self, answered: Sequence[tuple[Prompt, Answer]]) -> list[Example]:
        """Return a chain for each prompt and its right answer, all pictures encoded together.

        Raises:
            DataError: If a text does not fit its block.
        """
        stride = self.vocabulary.pictures.stride_px
        pictures = []
        for prompt, answer in answered:
            pictures += [seen(prompt.pictures[name], self.chain, stride) for name in prompt.shown]
            pictures += [answer.pictures[name] for name in self._images]
        codes = iter(self.codec.encode_batch(pictures))
        return [
            Example(
                segment=self._stream(prompt, answer, [next(codes) for _ in self._names(prompt)]), pictures=()
            )
            for prompt, answer in answered
        ]

    @property
    def _images(self) -> list[str]:
        return [name for name, block in self.chain.items() if block.kind == "image"]

    def _names(self, prompt: Prompt) -> list[str]:
        """Return the pictures of a stream, in order."""
        return [*prompt.shown, *self._images]

    def _stream(self, prompt: Prompt, answer: Answer, codes: Sequence[Ints]) -> TokenStream:
        """Return a chain behind its prompt, or now and then one of its pictures alone."""
        num_shown = len(prompt.shown)
        painted = dict(zip(self._images, codes[num_shown:], strict=True))
        rng = np.random.default_rng(derive_seed(self.seed, "pictures alone", prompt.prompt_id))
        if painted and rng.uniform() < ALONE_SHARE:
            return self._alone(str(rng.choice(self._images)), painted)
        plain = prompt.tokens or self.vocabulary.encode(prompt.messages)
        before = with_codes(
            plain, self.vocabulary.tags.placeholder, codes[:num_shown], self.vocabulary.pictures
        )
        written = self.written(prompt.prompt_id, answer.texts, painted)
        walk = walked(self.plan, written)
        if walk.error:
            raise DataError(f"{prompt.prompt_id}: its texts do not fit the chain: {walk.error}")
        return _supervised([*before, *written], [*[-1] * len(before), *walk.block_of])

    def written(self, name: str, texts: Mapping[str, str], codes: Mapping[str, Ints]) -> list[int]:
        """Return the ids of a whole answer, its forced ones included.

        Raises:
            DataError: If a text is longer than its block.
        """
        ids: list[int] = []
        for block in self.plan.blocks:
            before = len(ids)
            if self.plan.is_tagged:
                ids.append(block.opening)
            if block.is_image:
                ids += self.vocabulary.pictures.stream(codes[block.name])
            else:
                ids += self.vocabulary.encode.spell(texts[block.name])
            if self.plan.is_tagged:
                ids.append(block.closing)
            if not block.is_image and (num := len(ids) - before) >= block.max_tokens:
                raise DataError(
                    f"{name}: <{block.name}> takes {num + 1} tokens; raise chain.{block.name}.max_tokens "
                    f"(now {block.max_tokens})"
                )
        return ids if self.plan.is_tagged or self.plan.blocks[0].is_image else [*ids, self.plan.end]

    def _alone(self, name: str, painted: Mapping[str, Ints]) -> TokenStream:
        index = [block.name for block in self.plan.blocks].index(name)
        ids = self.vocabulary.pictures.stream(painted[name])
        is_code = np.isin(ids, self.vocabulary.pictures.code_ids)
        return _supervised(ids, np.where(is_code, index, -1).tolist())


def _supervised(ids: Sequence[int], block_of: Sequence[int]) -> TokenStream:
    """Return a stream of which every id that a policy would sample is an action."""
    blocks = np.asarray(block_of, dtype=np.int8)
    return TokenStream(
        tokens=np.asarray(ids, dtype=np.int32),
        pictures=(),
        action_mask=blocks >= 0,
        behaviour_logprobs=np.zeros(len(blocks), dtype=np.float32),
        block_of=blocks,
        sampling=TextSampling(),
    )
