"""Context of one chain as its engine saw it: pictures expanded, with what was sampled where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl.chain.plan import Walk
from rl.errors import RolloutError
from rl.types import Floats, Ints, TextSampling, TokenStream


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What one request wrote."""

    index: int
    """Of its block."""
    start: int
    """Place of its first token."""
    logprobs: Floats


class ScoredContext:
    """Grows by a request at a time: what the engine saw before it, and what it wrote."""

    def __init__(self) -> None:
        self._tokens: Ints = np.zeros(0, dtype=np.int32)
        self._written: list[_Written] = []
        self._pictures: tuple[str, ...] = ()

    def add(
        self,
        index: int,
        context: Ints,
        tokens: Sequence[int] | Ints,
        logprobs: Sequence[float] | Floats,
        pictures: Sequence[str],
    ) -> None:
        """Take a request's context and what was written behind it.

        Args:
            index: Of its block.
            context: All ids before, ``[S]``.
            tokens: Sampled ids, ``[n]``.
            logprobs: Of them, ``[n]``, nats.
            pictures: Names of the pictures in the context, in order.

        Raises:
            RolloutError: If the context does not begin with all that was seen and written before.
        """
        before = self._tokens
        if not np.array_equal(context[: len(before)], before):
            raise RolloutError(
                "the engine changed ids beside a picture that follows them (its model's processor does): a chain of "
                "this model cannot have pictures before a text block"
            )
        self._written.append(
            _Written(index=index, start=len(context), logprobs=np.asarray(logprobs, dtype=np.float32))
        )
        self._tokens = np.concatenate([context, np.asarray(tokens, dtype=np.int32)]).astype(np.int32)
        self._pictures = tuple(pictures)

    def __len__(self) -> int:
        """Tokens up to the last one that was sampled."""
        return len(self._tokens)

    def num_actions(self) -> dict[int, int]:
        """Count sampled tokens by index of their block; blocks without any are left out."""
        return {w.index: len(w.logprobs) for w in self._written if len(w.logprobs)}

    def stream(self, sampling: TextSampling) -> TokenStream:
        """Return the segment for the learner."""
        num = len(self._tokens)
        block_of = np.full(num, -1, dtype=np.int8)
        behaviour = np.zeros(num, dtype=np.float32)
        for written in self._written:
            places = slice(written.start, written.start + len(written.logprobs))
            block_of[places], behaviour[places] = written.index, written.logprobs
        return TokenStream(
            tokens=self._tokens,
            pictures=self._pictures,
            action_mask=block_of >= 0,
            behaviour_logprobs=behaviour,
            block_of=block_of,
            sampling=sampling,
        )


def num_scored(walk: Walk) -> int:
    """Return how many of a chain's ids a learner sees: up to the last one that was sampled."""
    return max((place for place, index in enumerate(walk.block_of, 1) if index >= 0), default=0)


def walked_stream(
    walk: Walk, prompt: Ints, tokens: Ints, logprobs: Floats, sampling: TextSampling
) -> TokenStream:
    """Return the segment of a chain that one policy wrote whole.

    Args:
        walk: Through ``tokens``.
        prompt: All ids before, pictures as their codes, ``[S]``.
        tokens: Of the chain, ``[n]``.
        logprobs: Of them, ``[n]``, nats; 0 where forced.
        sampling: What they were sampled from.
    """
    block_of = np.concatenate([np.full(len(prompt), -1), walk.block_of[: len(tokens)]]).astype(np.int8)
    num = len(prompt) + num_scored(walk)
    return TokenStream(
        tokens=np.concatenate([prompt, tokens])[:num].astype(np.int32),
        pictures=(),
        action_mask=block_of[:num] >= 0,
        behaviour_logprobs=np.concatenate([np.zeros(len(prompt)), logprobs])[:num].astype(np.float32),
        block_of=block_of[:num],
        sampling=sampling,
    )
