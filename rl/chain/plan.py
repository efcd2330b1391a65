"""Plan of a chain that one policy writes whole, and the walk through it: which ids may come next, token by token.

Pure and shared: the engine's mask, the chain runner and the supervised chains walk the same plan, so they cannot
disagree about which ids were sampled, among which, and which were forced.

Who writes which token is as in ``rl.chain.state``, but for pictures: they are rows of codes in the same stream. What
leads into a picture (its begin and size), ends its rows, closes it, and its closing tag are forced; a row's codes are
sampled among codes alone. Outside of pictures everything but codes and what frames them may be sampled. The first
token out of grammar, or the first that a text block has no room for, is followed by a forced end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby

import numpy as np

from configs.schema import BlockConfig
from rl.chain.grammar import ChainGrammar
from rl.errors import ConfigError
from rl.types import ChainPlan, Finish, Ints, PlannedBlock

TEXT = -1
"""What may come next: any id that text is made of."""
CODES = -2
"""What may come next: any code of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLayout:
    """How a picture of some size stands in the stream."""

    rows: int
    columns: int
    opening: tuple[int, ...]
    """Forced before its first code: its begin, its size."""
    row_end: tuple[int, ...]
    """Forced behind every row."""
    closing: tuple[int, ...]
    """Forced behind the last row's end."""

    @property
    def template(self) -> tuple[int, ...]:
        """Its ids, with ``CODES`` in the place of every code."""
        row = (*[CODES] * self.columns, *self.row_end)
        return (*self.opening, *row * self.rows, *self.closing)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureTokens:
    """Ids that pictures are written with."""

    code_ranges: tuple[tuple[int, int], ...]
    """Ids of the codes, in order of code: ranges, the end not included."""
    layout: Callable[[int, int], PictureLayout]
    """Of a picture of so many rows and columns of codes."""
    stride_px: int
    """Edge of what a code stands for."""

    @property
    def code_ids(self) -> tuple[int, ...]:
        """Id of each code."""
        return _ids_in(self.code_ranges)

    def stream(self, codes: Ints) -> list[int]:
        """Return a whole picture's ids from its codes ``[rows, columns]``."""
        ids, code = self.code_ids, iter(codes.reshape(-1).tolist())
        template = self.layout(*codes.shape).template
        return [ids[next(code)] if place == CODES else place for place in template]

    def codes(self, ids: Ints, template: Sequence[int]) -> Ints:
        """Return the codes ``[rows, columns]`` in a whole picture's ids, which stand as its template says."""
        places = np.asarray(template) == CODES
        written = ids[places]
        codes, first = np.zeros(len(written), dtype=np.int32), 0
        for start, stop in self.code_ranges:
            inside = (written >= start) & (written < stop)
            codes[inside] = written[inside] - start + first
            first += stop - start
        columns = next(len(list(run)) for is_code, run in groupby(places) if is_code)
        return codes.reshape(-1, columns)

    def of_block(self, block: BlockConfig) -> PictureLayout:
        """Return the layout of an image block's picture."""
        height, width = block.height_px or block.size_px, block.size_px
        return self.layout(height // self.stride_px, width // self.stride_px)


@cache
def _ids_in(ranges: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    return tuple(i for start, stop in ranges for i in range(start, stop))


def make_plan(grammar: ChainGrammar, pictures: PictureTokens) -> ChainPlan:
    """Lay out the chain of a policy that writes text and pictures.

    Raises:
        ConfigError: If the vocabulary has no end id.
    """
    tags = grammar.tags
    if not tags.end:
        raise ConfigError("chain: the checkpoint's tokenizer has no id that ends a chain")
    blocks = []
    for name, block in zip(grammar.names, grammar.blocks, strict=True):
        is_image = block.kind == "image"
        blocks.append(
            PlannedBlock(
                name=name,
                opening=tags.opening[name] if grammar.is_tagged else -1,
                closing=tags.closing[name] if grammar.is_tagged else -1,
                max_tokens=block.max_tokens,
                template=pictures.of_block(block).template if is_image else (),
                is_image=is_image,
            )
        )
    return ChainPlan(
        blocks=tuple(blocks),
        end=min(tags.end),
        ends=tags.end,
        whitespace=tags.whitespace,
        reserved=tags.reserved,
    )


@dataclass(slots=True)
class Walk:
    """One chain's way through its plan. Ask ``allowed``, then report with ``push`` what came; until ``finish``."""

    plan: ChainPlan
    allowed: int = TEXT
    """What may come next: ``TEXT``, ``CODES``, or the one id that is forced."""
    finish: Finish | None = None
    """How the chain ended; None while it goes on. Then only the plan's end may come, forced."""
    error: str = ""
    block_of: list[int] = field(default_factory=list)
    """Index of the block in which each id was sampled; -1 where it was forced."""
    pictures: dict[str, slice] = field(default_factory=dict)
    """Where each whole picture stands, with what frames it, among the ids pushed."""
    bodies: dict[str, slice] = field(default_factory=dict)
    """Where the body of each closed text block stands."""
    _index: int = 0
    _room: int = 0
    _is_inside: bool = False
    _start: int = 0
    _template: tuple[int, ...] = ()
    _place: int = 0

    def __post_init__(self) -> None:
        """Stand before the first id."""
        self._enter(is_open=False)

    def push(self, token: int) -> None:
        """Move by one id, the end included.

        Raises:
            ValueError: If the id is not the one that is forced.
        """
        if self.allowed >= 0 and token != self.allowed:
            raise ValueError(f"id {token} came where {self.allowed} is forced")
        self.block_of.append(self._sampler if self.allowed < 0 else -1)
        if self.finish is not None:
            return
        if self._template:
            self._advance()
        else:
            self._write(token)

    # ------------------------------------------------------------------ forced and codes

    def _advance(self) -> None:
        self._place += 1
        if self._place < len(self._template):
            self.allowed = self._template[self._place]
            return
        block, num = self.plan.blocks[self._index], len(self.block_of)
        if block.is_image:
            tags = int(self.plan.is_tagged)
            self.pictures[block.name] = slice(num - tags - len(block.template), num - tags)
        else:
            self.bodies[block.name] = slice(num - len(block.template) + 1, num - 1)
        self._index += 1
        self._enter(is_open=False)

    # ------------------------------------------------------------------ text

    def _write(self, token: int) -> None:
        plan, block, num = self.plan, self.plan.blocks[self._index], len(self.block_of)
        self._room -= 1
        if not plan.is_tagged:
            self._write_plain(token)
        elif self._is_inside and token == block.closing:
            self.bodies[block.name] = slice(self._start, num - 1)
            self._is_inside = False
            self._index += 1
            if not self._is_image(self._index):
                self._enter(is_open=False)
            else:
                self._go_on()
        elif self._is_image(self._index) and token == block.opening:
            self._enter(is_open=True)
        elif not self._is_inside and token == block.opening:
            self._is_inside, self._start = True, num
            self._go_on()
        elif token in plan.reserved if self._is_inside else not self._may_lie_between(token):
            writer = plan.blocks[self._sampler]
            self._end(Finish.MALFORMED, f"{writer.name}: token {token} does not fit")
        else:
            self._go_on()

    def _write_plain(self, token: int) -> None:
        block, num = self.plan.blocks[0], len(self.block_of)
        is_end = token in self.plan.ends
        self.bodies[block.name] = slice(0, num - is_end)
        if is_end:
            self._end(Finish.STOP, "")
        elif token in self.plan.reserved:
            self._end(Finish.MALFORMED, f"{block.name}: token {token} does not fit")
        else:
            self._go_on()

    def _may_lie_between(self, token: int) -> bool:
        return self._index > 0 and token in self.plan.whitespace

    def _is_image(self, index: int) -> bool:
        return index < len(self.plan.blocks) and self.plan.blocks[index].is_image

    @property
    def _sampler(self) -> int:
        """Index of the block that samples now: an image's opening tag belongs to the text before it."""
        return self._index - (self.allowed == TEXT and self._is_image(self._index))

    def _go_on(self) -> None:
        """Expect more text, if there is room for it."""
        if self._room == 0:
            writer = self.plan.blocks[self._sampler]
            self._end(Finish.LENGTH, f"{writer.name}: no tokens left (max_tokens={writer.max_tokens})")

    # ------------------------------------------------------------------ from block to block

    def _enter(self, *, is_open: bool) -> None:
        """Begin the block that the walk stands before.

        Args:
            is_open: Whether its opening tag has been written.
        """
        self._template, self._place = (), 0
        if self._index == len(self.plan.blocks):
            self._end(Finish.STOP, "")
            return
        block = self.plan.blocks[self._index]
        if not block.template:
            self.allowed, self._room = TEXT, block.max_tokens
            return
        tags = self.plan.is_tagged and block.is_image
        before = (block.opening,) if tags and not is_open else ()
        self._template = (*before, *block.template, *((block.closing,) if tags else ()))
        self.allowed = self._template[0]

    def _end(self, finish: Finish, error: str) -> None:
        self.finish, self.error, self.allowed = finish, error, self.plan.end


def walked(plan: ChainPlan, ids: Sequence[int] | Ints) -> Walk:
    """Walk a chain's ids.

    Raises:
        ValueError: If an id came where another is forced.
    """
    walk = Walk(plan)
    for token in ids:
        walk.push(int(token))
    return walk
