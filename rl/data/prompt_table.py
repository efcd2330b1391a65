"""Source of prompts from a table: the order of its rows, and which of them are held out.

A prompt follows from (seed, index) alone, so any process can make any prompt. An epoch is every training row once, in
an order of its own. Nothing is trained on that is evaluated on: rows that ask the same are held out together, and
training rows that ask what a second table asks are left out. Pictures are not compared: where there are some, every
row asks something of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import BlockConfig, Config, PromptTable
from rl.data.once import say_once
from rl.data.regions import REGIONS, paint_roughly, parse_regions
from rl.data.rows import GROUND_TRUTH, RowReader
from rl.data.source import Answer, PromptSource
from rl.data.tables import open_table
from rl.errors import ConfigError, DataError
from rl.seeding import derive_seed
from rl.types import Prompt, TextPart

MOST_TEXTS = 10_000
"""Prompts that a tokenizer is trained on."""
Rows = NDArray[np.int64]
"""Numbers of rows, or of what they ask (``_keys``), ``[n]``."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that are trained on, or held out, in order."""

    reader: RowReader
    rows: Rows

    def prompt(self, place: int, suffix: str = "") -> Prompt[Any]:
        """Make one row's prompt."""
        row = int(self.rows[place])
        return self.reader.prompt(row, f"{self.reader.table.label}/{row}{suffix}")


class TableSource(PromptSource):
    """Prompts from the rows of a table, and held-out ones from others or from a second table.

    Args:
        data: Where they are and which column is what.
        seed: Run seed.

    Raises:
        DataError: If a table, column or split is not there, or nothing is left to train on.
    """

    def __init__(self, data: PromptTable, *, seed: int) -> None:
        self._seed = seed
        table = open_table(data.prompts, split=data.split, key="data.prompts")
        reader = RowReader.of(table, data, seed=seed)
        if data.held_out:
            self._train, self._held_out = _beside(reader, data)
        else:
            self._train, self._held_out = _parted(reader, data.holdout_frac)
        say_once(f"data.prompts: {table.name} is taken as {self.about()['prompts']}")

    def train(self, index: int) -> Prompt[Any]:
        """Make a training prompt; the same for the same (seed, index) in every process."""
        epoch, place = divmod(index, self.num_train())
        return self._train.prompt(int(_order(self._seed, epoch, self.num_train())[place]), f"/{epoch}")

    def held_out(self, num: int) -> list[Prompt[Any]]:
        """Make the held-out prompts: all of them where there are fewer than ``num``.

        Raises:
            DataError: If the configuration keeps nothing out.
        """
        if not len(self._held_out.rows):
            raise DataError("nothing is held out; raise data.holdout_frac, or name a file in data.held_out")
        return [self._held_out.prompt(place) for place in range(min(num, len(self._held_out.rows)))]

    def num_train(self) -> int:
        """Return the number of training rows."""
        return len(self._train.rows)

    def training_texts(self) -> list[str]:
        """Return what the first prompts ask, and their answers."""
        texts = []
        for index in range(min(self.num_train(), MOST_TEXTS)):
            prompt = self.train(index)
            parts = [part for message in prompt.messages for part in message.parts]
            texts += [part.text for part in parts if isinstance(part, TextPart)]
            texts.append(str(prompt.reference.get(GROUND_TRUTH, "")))
        return texts

    def answer(self, prompt: Prompt, blocks: Mapping[str, BlockConfig], seed: int) -> Answer:
        """Return what the file says is right: a text, or a picture of its ``regions``, roughly painted.

        Raises:
            DataError: If it does not say, or the chain has more blocks than one.
        """
        ((name, block), *others) = blocks.items()
        column = REGIONS if block.kind == "image" else GROUND_TRUTH
        right = prompt.reference.get(column)
        if others or right is None:
            raise DataError(
                f"{prompt.prompt_id}: a file's {column} can be taught to a chain of one {block.kind} block; "
                + ("this row has none" if right is None else f"this one has {len(blocks)} blocks")
                + "; or name a checkpoint in policies.<name>.source"
            )
        if column == GROUND_TRUTH:
            return Answer(texts={name: str(right)}, pictures={})
        try:
            regions = parse_regions(right)
        except ValueError as error:
            raise DataError(f"{prompt.prompt_id}: {error}") from error
        rng = np.random.default_rng(derive_seed(seed, "rough picture", prompt.prompt_id))
        picture = paint_roughly(regions, block.height_px or block.size_px, block.size_px, rng)
        return Answer(texts={}, pictures={name: picture})

    def about(self) -> Mapping[str, str]:
        """Say whose columns they are, and how many rows are trained on and held out."""
        rows = f"{self.num_train()} rows to train on, {len(self._held_out.rows)} held out"
        return {"prompts": f"{self._train.reader.layout}, {rows}"}


def table_source(config: Config) -> TableSource:
    """Return the source of a run on a table."""
    if not isinstance(config.data, PromptTable):
        raise ConfigError(f"data.kind: {config.data.kind} is no table of prompts")
    return TableSource(config.data, seed=config.seed)


# --------------------------------------------------------------------------------- what is held out


def _parted(reader: RowReader, frac: float) -> tuple[_Part, _Part]:
    """Keep a share of a table's rows out, at least one; which, follows from what they ask."""
    keys, rows = _keys(reader), reader.table.rows
    is_out = keys < frac * 2.0**63
    if frac and not is_out.any():
        is_out = keys == keys.min()
    if is_out.all():
        raise DataError(
            f"{reader.table.name}: none of {len(keys)} rows asks something else than those held out; lower "
            "data.holdout_frac, or name a file in data.held_out"
        )
    return _Part(reader, rows[~is_out]), _Part(reader, _each_once(rows[is_out], keys[is_out]))


def _beside(reader: RowReader, data: PromptTable) -> tuple[_Part, _Part]:
    """Hold a second table out, and leave out of training what it asks."""
    table, key = reader.table, "data.held_out"
    other = RowReader.of(open_table(data.held_out, key=key), data, seed=reader.seed)
    keys, out = _keys(reader), _keys(other)
    is_out = np.isin(keys, out)
    if is_out.all():
        raise DataError(f"{key}: every prompt of {table.name} is held out too; name another file or split")
    if is_out.any():
        num = int(is_out.sum())
        say_once(f"{table.name}: {num} rows ask what {other.table.name} asks, and are not trained on")
    return _Part(reader, table.rows[~is_out]), _Part(other, _each_once(other.table.rows, out))


def _keys(reader: RowReader) -> Rows:
    """Return a number for what each row asks, in 0 .. 2**63, equal where rows ask the same."""
    table, column = reader.table, reader.layout.prompt
    name = column if column in table.columns else column.partition(".")[0]
    keys = []
    for row, cell in zip(table.rows, table.column(name), strict=True):
        asked = [table.label, int(row), cell] if reader.layout.images else cell
        digest = hashlib.blake2b(json.dumps(asked, default=str).encode(), digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little") >> 1)
    return np.asarray(keys, dtype=np.int64)


def _each_once(rows: Rows, keys: Rows) -> Rows:
    """Return a row for each question, in an order that has nothing to do with the table's."""
    _, first = np.unique(keys, return_index=True)
    return rows[first]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num: int) -> Rows:
    """Return an epoch's order of the training rows, ``[num]``."""
    return np.random.default_rng(derive_seed(seed, "prompts", epoch)).permutation(num)
