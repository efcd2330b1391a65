"""Guided chains, part by part: text in its context alone, each picture in its context and alone.

Within one request vLLM cannot hide what stands before a picture. So a chain is cut where a picture's first code and
where the next text are due: text is a request of one row; a picture is a guided pair, whose second row is the
picture's own opening, as in PURE: no prompt, no photo, no text, no earlier picture. What is forced between two parts
is put into the next one's context and costs no step. The engine's prefix cache makes the cuts cheap.

Knows nothing of vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl.chain.plan import CODES, Walk
from rl.errors import RolloutError
from rl.seeding import derive_seed
from rl.types import ChainPlan, Ints, TextRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPart:
    """One request to the engine."""

    tokens: Ints
    """Prompt and all of the chain so far, ``[S]``."""
    alone: Ints | None
    """Of a picture: the context of the row without its condition; None for text."""
    before: tuple[int, ...]
    """The chain so far."""
    max_tokens: int
    stop_ids: tuple[int, ...]
    seed: int


class GuidedChain:
    """One chain while it is written.

    Args:
        request: For the whole chain.
        plan: Its plan.
    """

    def __init__(self, request: TextRequest, plan: ChainPlan) -> None:
        self.request, self.plan = request, plan
        self._walk = Walk(plan)
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._num_parts = 0
        self._force()

    @property
    def is_done(self) -> bool:
        """Whether nothing more is written."""
        return self._walk.finish is not None

    @property
    def ids(self) -> list[int]:
        """All ids so far."""
        return list(self._ids)

    @property
    def logprobs(self) -> list[float]:
        """Of ``ids``; exactly 0 where forced."""
        return list(self._logprobs)

    def next_part(self) -> ChainPart:
        """Return what is written next."""
        self._num_parts += 1
        alone, max_tokens = None, self.plan.max_tokens - len(self._ids)
        images = [block for block in self.plan.blocks if block.is_image]
        stop_ids: tuple[int, ...] = (
            self.plan.end,
            *self.plan.ends,
            *(block.opening for block in images if block.opening >= 0),
        )
        if self._walk.allowed == CODES:
            template = images[len(self._walk.pictures)].template
            codes = [place for place, index in enumerate(template) if index == CODES]
            alone, stop_ids = np.asarray(self._ids[-codes[0] :], dtype=np.int32), ()
            max_tokens = codes[-1] + 1 - codes[0]
        return ChainPart(
            tokens=np.concatenate([self.request.tokens, np.asarray(self._ids, dtype=np.int32)]),
            alone=alone,
            before=tuple(self._ids),
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            seed=derive_seed(self.request.seed, "part", self._num_parts),
        )

    def add(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Take what was written of a part.

        Raises:
            RolloutError: If the engine left off before the part's end.
        """
        is_picture, num_pictures = self._walk.allowed == CODES, len(self._walk.pictures)
        for token, logprob in zip(tokens, logprobs, strict=True):
            if not self.is_done:  # behind it only the end that was forced
                self._push(int(token), float(logprob))
        self._force()
        is_whole = len(self._walk.pictures) > num_pictures if is_picture else self._walk.allowed == CODES
        if not self.is_done and not is_whole:
            raise RolloutError(f"{self.request.request_id}: the engine left a chain before the end of a part")

    def _push(self, token: int, logprob: float) -> None:
        self._walk.push(token)
        self._ids.append(token)
        self._logprobs.append(logprob)

    def _force(self) -> None:
        """Write what is forced now."""
        while not self.is_done and self._walk.allowed >= 0:
            self._push(self._walk.allowed, 0.0)
