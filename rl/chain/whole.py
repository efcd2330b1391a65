"""The state of one chain that a unified policy writes whole: one request, then its pictures are decoded.

Pure, and asked as ``rl.chain.state.ChainState`` is: the caller has ``next_step`` done and reports back until it hears
``Done``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rl.chain.plan import PictureTokens, Walk, walked
from rl.chain.scored import num_scored, walked_stream
from rl.chain.state import PICTURE_TEXT, Decode, Done
from rl.errors import RolloutError
from rl.types import ChainPlan, Floats, Ints, TextRequest, TextSampling, TokenStream


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteChain:
    """Have the policy write the chain."""

    plan: ChainPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePictures:
    """Have the pictures made of their codes."""

    codes: dict[str, Ints]
    """``[rows, columns]`` of each picture that was written, by block, in order."""


class WholeChain:
    """One chain while it is written.

    Args:
        plan: What may come when.
        policy: Name of the policy that writes it.
        pictures: Ids that pictures are written with.
        prompt: Its ids, pictures as their codes.
    """

    def __init__(
        self, plan: ChainPlan, policy: str, pictures: PictureTokens, prompt: Iterable[int] = ()
    ) -> None:
        self.plan, self._policy, self._picture_tokens = plan, policy, pictures
        self.versions: dict[str, tuple[int, int]] = {}
        self._prompt = np.asarray(list(prompt), dtype=np.int32)
        self._written = np.zeros(0, dtype=np.int32)
        self._logprobs = np.zeros(0, dtype=np.float32)
        self._walk: Walk | None = None
        self._is_decoded = False

    # ------------------------------------------------------------------ what comes next

    def next_step(self) -> WriteChain | DecodePictures | Done:
        """Return what to do now; the same answer until it is reported as done."""
        if self._walk is None:
            return WriteChain(plan=self.plan)
        if self._walk.pictures and not self._is_decoded:
            return DecodePictures(codes=self._codes())
        assert self._walk.finish is not None
        return Done(finish=self._walk.finish, error=self._walk.error)

    def request(self, name: str, *, sampling: TextSampling, seed: int) -> TextRequest:
        """Return what has the chain written: its plan says when it ends."""
        return TextRequest(
            request_id=name,
            tokens=self.tokens,
            pictures=(),
            max_tokens=self.plan.max_tokens,
            stop_ids=(),
            sampling=sampling,
            seed=seed,
            plan=self.plan,
        )

    def chain_written(self, tokens: Ints, logprobs: Floats, *, version: int) -> None:
        """Take what the policy wrote behind the prompt.

        Args:
            tokens: Sampled and forced ids, the forced end left out, ``[n]``.
            logprobs: Of the sampling distribution, ``[n]``, nats; 0 where forced.
            version: Weight version that it was begun with.

        Raises:
            RolloutError: If the ids are not what the plan allows, or the log-probs do not belong to them.
        """
        if self._walk is not None:
            raise RolloutError("a chain arrived that is written already")
        if len(tokens) != len(logprobs) or not np.all(np.isfinite(logprobs)):
            raise RolloutError(f"want one finite log-prob for each of {len(tokens)} tokens")
        try:
            walk = walked(self.plan, tokens.tolist())
        except ValueError as error:
            raise RolloutError(f"the engine left the plan of the chain: {error}") from error
        if walk.finish is None:
            raise RolloutError(f"the engine stopped after {len(tokens)} ids, before the chain's end")
        if np.any(logprobs[np.asarray(walk.block_of) < 0]):
            raise RolloutError(
                "the engine gave a forced id a log-prob other than 0: its masks are not the plan's"
            )
        self._walk, self._written = walk, np.asarray(tokens, dtype=np.int32)
        self._logprobs = np.asarray(logprobs, dtype=np.float32)
        self.versions[self._policy] = (version, version)

    def pictures_decoded(self) -> None:
        """Take note that the pictures are there."""
        self._is_decoded = True

    # ------------------------------------------------------------------ what was written

    @property
    def tokens(self) -> Ints:
        """Prompt and everything written, ``[L]``."""
        return np.concatenate([self._prompt, self._written])

    @property
    def length(self) -> int:
        """Tokens that a learner sees."""
        return len(self._prompt) + (num_scored(self._walk) if self._walk is not None else 0)

    @property
    def written(self) -> Ints:
        """Everything behind the prompt, ``[n]``."""
        return self._written

    @property
    def painted(self) -> tuple[str, ...]:
        """Whole pictures by block, in order."""
        return tuple(self._walk.pictures) if self._walk is not None else ()

    def stream(self, sampling: TextSampling) -> TokenStream:
        """Return the segment for the learner: up to the last id that was sampled."""
        assert self._walk is not None
        return walked_stream(self._walk, self._prompt, self._written, self._logprobs, sampling)

    def num_actions(self) -> dict[str, int]:
        """Count sampled tokens by block; blocks without any are left out."""
        block_of = self._walk.block_of if self._walk is not None else []
        counts = {block.name: block_of.count(index) for index, block in enumerate(self.plan.blocks)}
        return {name: num for name, num in counts.items() if num}

    def block_text(self, decode: Decode) -> dict[str, str]:
        """Decode the body of every closed text block, in order."""
        bodies = self._walk.bodies if self._walk is not None else {}
        return {block: decode(self._ids(span)) for block, span in bodies.items()}

    def text(self, decode: Decode) -> str:
        """Decode everything written, with ``<|image|>`` for each picture; codes of one that broke off are left out."""
        parts, start = [], 0
        for span in self._walk.pictures.values() if self._walk is not None else ():
            parts += [decode(self._ids(slice(start, span.start))), PICTURE_TEXT]
            start = span.stop
        return "".join([*parts, decode(self._ids(slice(start, len(self._written))))])

    def _ids(self, span: slice) -> Sequence[int]:
        ids: list[int] = self._written[span].tolist()
        return ids

    def _codes(self) -> dict[str, Ints]:
        assert self._walk is not None
        templates = {block.name: block.template for block in self.plan.blocks}
        return {
            name: self._picture_tokens.codes(self._written[span], templates[name])
            for name, span in self._walk.pictures.items()
        }
