"""The state of one chain while it is written.

Pure: knows token ids and block names, never engines, pictures or text. The caller asks ``next_step()``, has
it done somewhere, and reports back with ``text_written`` or ``image_painted`` until it hears ``Done``.

Who writes which token:

- A text block is one request: from after the previous closing tag up to and including the block's own
  closing tag or, where an image block follows, up to and including that image block's *opening* tag. All of
  it is sampled; ``max_tokens`` bounds the whole request.
- A picture and the closing tag behind it are forced. The last picture of a chain never enters the context:
  only its closing tag does, so that the written text is whole.
- An image block that no text block leads into (the first of a chain, or one right after another image
  block) has its opening tag forced: the grammar leaves nothing to decide there.
- A chain of image blocks only (Flow-GRPO) has no tags and no token stream at all.
- A chain of one text block may have no tags either (plain GRPO): it ends with the model's own end token, which is
  sampled, and its body is everything before.

Whitespace is legal between blocks (not before the first), as in the paper's expression. The first token out
of grammar ends the chain; it stays in the stream as an action, so that the policy learns from it.

A sampled token belongs to the text block whose request wrote it, so a reward that judges text blocks reaches every
decision of the text policy, an image's opening tag included.

Two contexts are kept: that of the next request, with one placeholder a picture, and that which the engine saw, with
every picture expanded (``rl.chain.scored``). The second comes back from the engine: nothing here expands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rl.chain.grammar import ChainGrammar
from rl.chain.scored import ScoredContext
from rl.errors import ConfigError, RolloutError
from rl.types import Finish, Floats, Ints, TextSampling, TokenStream

PICTURE_TEXT = "<|image|>"
"""Stands for a picture in a chain's text."""

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteText:
    """Have the text policy write on."""

    block: str
    max_tokens: int
    stop_ids: tuple[int, ...]
    """The tag that ends the request, and every id that can only be a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintImage:
    """Have the image policy paint."""

    block: str
    size_px: int
    num_steps: int
    previous: str | None
    """The chain's picture before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The chain has ended."""

    finish: Finish
    error: str = ""
    """Why, unless ``finish`` is STOP."""


Step = WriteText | PaintImage | Done


class ChainState:
    """One chain while it is written."""

    def __init__(
        self, grammar: ChainGrammar, prompt: Iterable[int] = (), *, pictures: tuple[str, ...] = ()
    ) -> None:
        """Start after the prompt.

        Args:
            grammar: The chain's blocks and tags.
            prompt: Prompt token ids; unused where there is no token policy.
            pictures: Names of the pictures that the prompt's placeholders stand for, in order.

        Raises:
            ConfigError: If the prompt's placeholders and ``pictures`` differ in number.
        """
        self.grammar = grammar
        self.versions: dict[str, tuple[int, int]] = {}
        self._tokens: list[int] = []
        self._scored = ScoredContext()
        self._pictures: list[str] = []
        self._painted: list[tuple[str, slice]] = []
        self._bodies: dict[str, slice] = {}
        self._body_start = 0
        self._index = 0
        self._inside = False
        self._done: Done | None = None
        if grammar.token_policy is not None:
            self._force(prompt)
            self._pictures.extend(pictures)
            if self._tokens.count(grammar.tags.placeholder) != len(pictures):
                raise ConfigError(f"the prompt must hold one placeholder for each of {pictures}")
        self._prompt_length = len(self._tokens)
        self._open_image()

    # ------------------------------------------------------------------ what comes next

    def next_step(self) -> Step:
        """Return what to do now; the same answer until it is reported as done."""
        if self._done is not None:
            return self._done
        name, block = self.grammar.names[self._index], self.grammar.blocks[self._index]
        if block.kind == "image":
            previous = self._painted[-1][0] if self._painted else None
            return PaintImage(block=name, size_px=block.size_px, num_steps=block.num_steps, previous=previous)
        stop_ids = self.grammar.stop_ids(self._index)
        return WriteText(block=name, max_tokens=block.max_tokens, stop_ids=stop_ids)

    def text_written(
        self,
        tokens: Sequence[int] | Ints,
        logprobs: Sequence[float] | Floats,
        *,
        stopped: bool,
        version: int,
        context: Ints | None = None,
    ) -> None:
        """Take what the text policy wrote for the present ``WriteText``.

        Args:
            tokens: Sampled ids, the stop id included, ``[n]``.
            logprobs: Of the sampling distribution, ``[n]``, nats.
            stopped: False when it ran out of tokens.
            version: Weight version that wrote it.
            context: Ids that the engine saw before them, pictures expanded, ``[S]``; None where ``tokens`` has
                been all of it.

        Raises:
            RolloutError: If no text is due, a log-prob is not finite, lengths differ, text follows the tag that ends
                the request, or the context does not begin with that of the block before and what was written then.
        """
        step = self.next_step()
        if not isinstance(step, WriteText):
            raise RolloutError(f"text arrived while {step} is due")
        if len(tokens) != len(logprobs) or not np.all(np.isfinite(logprobs)):
            raise RolloutError(f"{step.block}: want one finite log-prob for each of {len(tokens)} tokens")
        self._saw_version(self._index, version)
        index, context = self._index, self.tokens if context is None else context
        taken, whole = self._take(step.block, tokens)
        self._scored.add(index, context, tokens[:taken], logprobs[:taken], self._pictures)
        if self._done is not None:
            return
        if not whole and stopped:
            self._finish(Finish.MALFORMED, f"{step.block}: stopped before its last tag")
        elif not whole:
            self._finish(Finish.LENGTH, f"{step.block}: no tokens left (max_tokens={step.max_tokens})")
        elif self._index == len(self.grammar.names):
            self._finish(Finish.STOP, "")

    def image_painted(self, block: str, version: int) -> None:
        """Take note that ``block`` was painted, and force what the grammar puts behind it.

        Raises:
            RolloutError: If that picture is not due.
        """
        step = self.next_step()
        if not isinstance(step, PaintImage) or step.block != block:
            raise RolloutError(f"picture {block} arrived while {step} is due")
        self._saw_version(self._index, version)
        is_last = self._index + 1 == len(self.grammar.names)
        start = len(self._tokens)
        if self.grammar.token_policy is not None and not is_last:
            self._force(self.grammar.tags.picture)
            self._pictures.append(block)
        self._painted.append((block, slice(start, len(self._tokens))))
        if self.grammar.token_policy is not None:
            self._force([self.grammar.tags.closing[block]])
        self._index, self._inside = self._index + 1, False
        if is_last:
            self._finish(Finish.STOP, "")
        else:
            self._open_image()

    # ------------------------------------------------------------------ what was written

    @property
    def tokens(self) -> Ints:
        """Prompt and everything written, ``[L]``, one placeholder a picture."""
        return np.asarray(self._tokens, dtype=np.int32)

    @property
    def length(self) -> int:
        """Tokens that a learner sees, pictures expanded."""
        return len(self._scored)

    @property
    def written(self) -> Ints:
        """Everything behind the prompt, ``[n]``."""
        return self.tokens[self._prompt_length :]

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of the placeholders' pictures, in order."""
        return tuple(self._pictures)

    @property
    def painted(self) -> tuple[str, ...]:
        """Finished image blocks, in order."""
        return tuple(name for name, _ in self._painted)

    def stream(self, sampling: TextSampling) -> TokenStream | None:
        """Return the token segment, or None where the chain has no token policy."""
        return None if self.grammar.token_policy is None else self._scored.stream(sampling)

    def num_actions(self) -> dict[str, int]:
        """Count sampled tokens by block; blocks without any are left out."""
        return {self.grammar.names[index]: num for index, num in self._scored.num_actions().items()}

    def block_text(self, decode: Decode) -> dict[str, str]:
        """Decode the body of every closed text block, in order; without tags also of one that found no end."""
        return {block: decode(self._tokens[span]) for block, span in self._bodies.items()}

    def text(self, decode: Decode) -> str:
        """Decode everything written after the prompt, with ``<|image|>`` for each picture."""
        parts, start = [], self._prompt_length
        for _, span in self._painted:
            parts += [decode(self._tokens[start : span.start]), PICTURE_TEXT]
            start = span.stop
        return "".join([*parts, decode(self._tokens[start:])])

    # ------------------------------------------------------------------ inside

    def _take(self, block: str, tokens: Sequence[int] | Ints) -> tuple[int, bool]:
        """Move by sampled tokens; return how many were taken, and whether the request came to its end.

        Raises:
            RolloutError: If text follows the tag that ends the request.
        """
        last, whole = self.grammar.last_ids(self._index), False
        for num, token in enumerate(map(int, tokens), 1):
            if whole:
                raise RolloutError(f"{block}: text goes on after the tag that ends the request")
            self._tokens.append(token)
            if not self._accept(token):
                self._finish(Finish.MALFORMED, f"{block}: token {token} does not fit")
                return num, False
            whole = token in last
        return len(tokens), whole

    def _accept(self, token: int) -> bool:
        """Move by one sampled token; False where it is out of grammar."""
        tags, name = self.grammar.tags, self.grammar.names[self._index]
        if not self.grammar.is_tagged:
            is_end = token in tags.end
            self._bodies[name] = slice(self._prompt_length, len(self._tokens) - is_end)
            self._index += is_end
            return is_end or token not in tags.reserved
        if self._inside and token == tags.closing[name]:
            self._bodies[name] = slice(self._body_start, len(self._tokens) - 1)
            self._index, self._inside = self._index + 1, False
            return True
        if self._inside:
            return token not in tags.reserved
        if token == tags.opening[name]:
            self._inside, self._body_start = True, len(self._tokens)
            return True
        return self._index > 0 and token in tags.whitespace

    def _open_image(self) -> None:
        """Force the opening tag of an image block that no text leads into."""
        if self.grammar.is_image(self._index) and self.grammar.token_policy is not None:
            self._force([self.grammar.tags.opening[self.grammar.names[self._index]]])
            self._inside = True

    def _force(self, tokens: Iterable[int]) -> None:
        self._tokens.extend(map(int, tokens))

    def _saw_version(self, index: int, version: int) -> None:
        policy = self.grammar.blocks[index].policy
        low, high = self.versions.get(policy, (version, version))
        self.versions[policy] = (min(low, version), max(high, version))

    def _finish(self, finish: Finish, error: str) -> None:
        self._done = Done(finish=finish, error=error)
