"""Rows as prompts: a table's cells become messages, pictures and what rewards are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import PromptTable
from rl.data.cells import as_json, read_path
from rl.data.layouts import NOT_READ, Layout, find_layout
from rl.data.messages import inline_pictures, to_messages, without_pictures
from rl.data.pictures import encoded, is_picture
from rl.data.tables import Table
from rl.data.templates import PromptTemplate
from rl.errors import DataError
from rl.seeding import derive_seed
from rl.types import EncodedPicture, Json, Prompt

PROMPT = "prompt"
"""Reference value of every prompt: what the table asks, as it stands there."""
GROUND_TRUTH = "ground_truth"
"""Reference value of every prompt whose table has an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """Makes prompts of one table's rows."""

    table: Table
    layout: Layout
    folder: Path
    """Where relative paths of pictures start from."""
    pictures: Sequence[str]
    """Columns of pictures that the policies do not see."""
    template: PromptTemplate | None
    seed: int

    @classmethod
    def of(cls, table: Table, data: PromptTable, *, seed: int) -> RowReader:
        """Find out which column is what.

        Raises:
            DataError: If a column that is named or needed is not there, or the template cannot be used.
        """
        return cls(
            table=table,
            layout=find_layout(data, table.columns, name=table.name),
            folder=Path(data.image_dir) if data.image_dir else table.folder,
            pictures=data.pictures,
            template=PromptTemplate(data.template) if data.template else None,
            seed=seed,
        )

    def prompt(self, row: int, prompt_id: str) -> Prompt[Any]:
        """Make a row's prompt, its pictures as files' contents.

        Raises:
            DataError: If a cell is not there or not of its kind; names file, row and remedy.
        """
        where, cells = self.table.where(row), self.table.row(row)
        self._check(cells, where)
        shown = self._shown(cells, where)
        reference = self._reference(cells, where)
        hidden = {name: cell for name, cell in cells.items() if self._is_hidden(name, cell)}
        try:
            return Prompt(
                prompt_id=prompt_id,
                messages=to_messages(
                    self._filled(reference, where),
                    list(shown),
                    has_marks=bool(self.layout.images),
                    where=where,
                ),
                pictures=shown | self._read(hidden, where),
                shown=tuple(shown),
                reference=reference,
                seed=derive_seed(self.seed, prompt_id),
            )
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{where}: {error}; rename the column") from error

    def _check(self, cells: Mapping[str, Any], where: str) -> None:
        if media := next((name for name in NOT_READ if cells.get(name)), None):
            raise DataError(f"{where}: has {media}, which no policy here takes in; remove the row")
        if read_path(cells, self.layout.prompt) is None:
            raise DataError(f"{where}: no {self.layout.prompt!r}; fill it or remove the row")

    def _reference(self, cells: Mapping[str, Any], where: str) -> dict[str, Json]:
        """Return every column that holds no picture, the prompt as it stands, and the answer."""
        fills, asks = not self.table.is_json, self.layout.prompt.partition(".")[0]
        known = {
            name: as_json(
                without_pictures(cell) if name == asks else cell, where=f"{where}: {name}", fills=fills
            )
            for name, cell in cells.items()
            if name != self.layout.images and not self._is_hidden(name, cell)
        }
        known[PROMPT] = read_path(known, self.layout.prompt)
        if self.layout.ground_truth:
            known[GROUND_TRUTH] = read_path(known, self.layout.ground_truth)
        return known

    def _filled(self, reference: Mapping[str, Json], where: str) -> Json:
        """Put the template around the prompt."""
        asked = reference[PROMPT]
        if self.template is None:
            return asked
        if not isinstance(asked, str):
            raise DataError(f"{where}: the prompt is messages already; take data.template out")
        return self.template.fill(asked, reference, where=where)

    def _shown(self, cells: Mapping[str, Any], where: str) -> dict[str, EncodedPicture]:
        """Return the pictures that the policies see: their column's, or those inside the messages."""
        cell = cells.get(self.layout.images)
        if cell is None:
            cell = inline_pictures(read_path(cells, self.layout.prompt))
        return self._read({"image" if isinstance(cell, list) else self.layout.images: cell}, where)

    def _is_hidden(self, name: str, cell: Any) -> bool:
        """Whether a column holds pictures that the policies do not see."""
        if name == self.layout.images:
            return False
        several = cell if isinstance(cell, list) else [cell]
        return name in self.pictures or bool(several and all(is_picture(one) for one in several))

    def _read(self, cells: Mapping[str, Any], where: str) -> dict[str, EncodedPicture]:
        """Read each column's picture or, numbered, its pictures."""
        named: dict[str, Any] = {}
        for name, cell in cells.items():
            named |= (
                {f"{name}_{i}": c for i, c in enumerate(cell)} if isinstance(cell, list) else {name: cell}
            )
        return {
            name: encoded(cell, folder=self.folder, origin=f"{where}: {name}")
            for name, cell in named.items()
            if cell is not None
        }
