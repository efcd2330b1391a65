"""Layouts of tables: whose columns a table has, by their names, and which of them holds what."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from configs.schema import PromptTable
from configs.suggest import suggest
from rl.errors import DataError

SHOWN = ("images", "image")
"""Columns of the pictures that policies see, whatever the format."""
NOT_READ = ("videos", "video", "audios", "audio")
"""Columns of what no policy here takes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Columns by which a kind of file is known, and what they hold; of several names the first that is there."""

    known_by: Sequence[str]
    prompt: Sequence[str]
    ground_truth: Sequence[str] = ("ground_truth", "answer", "solution")
    """``a.b`` is a key inside a column."""


FORMATS = {
    "verl": Format(
        known_by=("reward_model", "data_source"),
        prompt=("prompt",),
        ground_truth=("reward_model.ground_truth", "ground_truth"),
    ),
    "easyr1": Format(known_by=("problem",), prompt=("problem", "prompt"), ground_truth=("answer",)),
    "trl": Format(known_by=("prompt",), prompt=("prompt",)),
    "plain": Format(known_by=(), prompt=("prompt", "text", "question", "caption", "instruction")),
}
"""In the order in which ``auto`` looks for them; the last is known by nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which column of a table holds what; '' where there is none."""

    format: str
    prompt: str
    images: str
    ground_truth: str

    def __str__(self) -> str:
        holds = {"prompt": self.prompt, "ground_truth": self.ground_truth, "images": self.images}
        return f"{self.format} ({', '.join(f'{name}={column}' for name, column in holds.items() if column)})"


def find_layout(data: PromptTable, columns: Collection[str], *, name: str) -> Layout:
    """Choose a table's columns: those that the configuration names, and the format's for the rest.

    Args:
        data: The configuration.
        columns: Of the table.
        name: The table's, for messages.

    Raises:
        DataError: If a column is not there; says which there are.
    """
    chosen: str = data.format
    if chosen == "auto":
        chosen = next((n for n, f in FORMATS.items() if set(f.known_by) & set(columns)), "plain")
    form = FORMATS[chosen]
    prompt = data.prompt or _first(form.prompt, columns)
    if not prompt:
        raise DataError(
            f"{name}: no column {' or '.join(form.prompt)}; set data.prompt to one of {', '.join(columns)}"
        )
    truth = data.ground_truth or _first(form.ground_truth, columns)
    images = data.images or _first(SHOWN, columns)
    named = {"prompt": data.prompt, "ground_truth": data.ground_truth, "images": data.images}
    further = [("pictures", picture) for picture in data.pictures]
    for key, column in [*named.items(), *further]:
        if column and not _has(column, columns):
            near = suggest(column, columns) or f"; there are {', '.join(columns)}"
            raise DataError(f"{name}: no column {column!r} (data.{key}){near}")
    return Layout(format=chosen, prompt=prompt, images=images, ground_truth=truth)


def _first(names: Sequence[str], columns: Collection[str]) -> str:
    return next((name for name in names if _has(name, columns)), "")


def _has(name: str, columns: Collection[str]) -> bool:
    """Whether a column is there, or the one that a key is to be inside of."""
    column, dot, _ = name.partition(".")
    return name in columns or bool(dot and column in columns)
