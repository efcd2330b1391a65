"""Ids that a checkpoint writes pictures with: its own ``picture_tokens.json``, or what Emu3's tokenizer has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from actors.policies.token.tokenizer import encode, token_id
from actors.policies.unified.codec_files import read_codec
from rl.chain.plan import PictureLayout, PictureTokens
from rl.errors import ConfigError

FILE = "picture_tokens.json"
_EMU3_CODE, _EMU3_CODE_END = "<|visual token ", "|>"
_EMU3_ROW_END = "<|extra_200|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPictureTokens:
    """What ``picture_tokens.json`` says."""

    codes: tuple[tuple[int, int], ...]
    """Ids of the codes, in order of code: ranges, the end not included."""
    begin: int
    end: int
    row_end: int
    first_size: int
    """A picture's begin is followed by ``first_size`` + its rows, and ``first_size`` + its columns."""
    max_size: int
    """Most rows, and columns, that have a token."""
    stride_px: int
    """Edge of what a code stands for."""

    @property
    def num_codes(self) -> int:
        """Codes in all."""
        return sum(stop - start for start, stop in self.codes)

    @property
    def framing(self) -> frozenset[int]:
        """Ids that stand around codes and nowhere else."""
        sizes = range(self.first_size + 1, self.first_size + self.max_size + 1)
        return frozenset({self.begin, self.end, self.row_end, *sizes})

    def layout(self, rows: int, columns: int) -> PictureLayout:
        """Lay out a picture.

        Raises:
            ConfigError: If a size has no token.
        """
        if not (0 < rows <= self.max_size and 0 < columns <= self.max_size):
            raise ConfigError(
                f"a picture of {rows} rows and {columns} columns of codes has no size tokens; this checkpoint's go "
                f"from 1 to {self.max_size} (of {self.stride_px} px each)"
            )
        return PictureLayout(
            rows=rows,
            columns=columns,
            opening=(self.begin, self.first_size + rows, self.first_size + columns),
            row_end=(self.row_end,),
            closing=(self.end,),
        )

    def write(self, directory: Path) -> None:
        """Write the file."""
        (directory / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_picture_tokens(directory: Path) -> StoredPictureTokens:
    """Read a checkpoint's own file.

    Raises:
        ConfigError: If it is missing or damaged, or an id in it means two things.
    """
    path = directory / FILE
    if not path.is_file():
        raise ConfigError(
            f"{directory}: no {FILE} in it; a policy that writes pictures as codes starts from a checkpoint whose file "
            "says which ids are codes, or from Emu3's"
        )
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        codes = tuple((int(start), int(stop)) for start, stop in stored.pop("codes"))
        tokens = StoredPictureTokens(codes=codes, **{name: int(value) for name, value in stored.items()})
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        names = ", ".join(StoredPictureTokens.__dataclass_fields__)
        raise ConfigError(f"{path} is damaged: want {names}, all but codes one number each") from error
    ids = [i for start, stop in codes for i in range(start, stop)]
    num_framing = 3 + tokens.max_size
    if not ids or len({*ids, *tokens.framing}) != len(ids) + num_framing or tokens.stride_px < 1:
        raise ConfigError(
            f"{path}: every code and what frames pictures need ids of their own, and codes a stride"
        )
    return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureIds:
    """What a vocabulary needs to know of its pictures."""

    tokens: PictureTokens
    framing: frozenset[int]
    """Ids that stand around codes and nowhere else."""


def load_picture_ids(directory: Path, tokenizer: Any) -> PictureIds:
    """Find out how a checkpoint's pictures stand in its streams: by its file, or by its tokenizer where that is Emu3's.

    Args:
        directory: Of the checkpoint.
        tokenizer: Of it.

    Raises:
        ConfigError: If its file is missing or damaged, or a token of Emu3's is.
    """
    if not (directory / FILE).is_file() and f"{_EMU3_CODE}000000{_EMU3_CODE_END}" in tokenizer.get_vocab():
        return emu3_picture_ids(tokenizer, stride_px=read_codec(directory).stride)
    stored = read_picture_tokens(directory)
    tokens = PictureTokens(code_ranges=stored.codes, layout=stored.layout, stride_px=stored.stride_px)
    return PictureIds(tokens=tokens, framing=stored.framing)


# ------------------------------------------------------------------ Emu3


def emu3_picture_ids(tokenizer: Any, *, stride_px: int) -> PictureIds:
    """Derive them from Emu3's tokenizer: codes and ends of rows have names there, sizes are written as text.

    Args:
        tokenizer: Of the checkpoint.
        stride_px: Of its codec.

    Raises:
        ConfigError: If a token is missing, or the codes are not 0, 1, 2 and so on.
    """
    code_of = {
        int(name.removeprefix(_EMU3_CODE).removesuffix(_EMU3_CODE_END)): index
        for name, index in tokenizer.get_vocab().items()
        if name.startswith(_EMU3_CODE)
    }
    if not code_of or sorted(code_of) != list(range(len(code_of))):
        raise ConfigError(
            f"Emu3's tokenizer lacks tokens for codes of pictures ({_EMU3_CODE}...{_EMU3_CODE_END})"
        )
    row_end = token_id(tokenizer, _EMU3_ROW_END)
    names = ("boi_token", "image_wrapper_token", "eof_token", "eoi_token")
    begin, wrapper, frame_end, end = (token_id(tokenizer, getattr(tokenizer, name)) for name in names)
    layout = partial(
        _emu3_layout, tokenizer=tokenizer, around=(begin, wrapper), row_end=row_end, closing=(frame_end, end)
    )
    ranges = _ranges([code_of[code] for code in range(len(code_of))])
    return PictureIds(
        tokens=PictureTokens(code_ranges=ranges, layout=layout, stride_px=stride_px),
        framing=frozenset({begin, wrapper, row_end, frame_end, end}),
    )


def _emu3_layout(
    rows: int,
    columns: int,
    *,
    tokenizer: Any,
    around: tuple[int, int],
    row_end: int,
    closing: tuple[int, int],
) -> PictureLayout:
    """Lay out a picture of Emu3; its size stands in words: ``rows*columns``."""
    begin, wrapper = around
    return PictureLayout(
        rows=rows,
        columns=columns,
        opening=(begin, *encode(tokenizer, f"{rows}*{columns}"), wrapper),
        row_end=(row_end,),
        closing=closing,
    )


def _ranges(ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Join ids that follow each other to ranges, in their order."""
    ranges: list[tuple[int, int]] = []
    for index in ids:
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return tuple(ranges)
