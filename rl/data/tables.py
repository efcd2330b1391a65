"""Tables of prompts: files, folders and hub names as rows, which ``datasets`` reads.

What it reads lies in Arrow files that are mapped to memory, so a process holds the rows it asks for and no others.

JSON goes through its *text* reader, a line a row, and is parsed when a row is wanted. Its JSON reader makes typed
columns: it fails where a later part of a file has another type, makes dates of texts that look like one (an answer
``2024-01-01``), and adds every key that any row has to all others.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.errors import first_line
from configs.suggest import suggest
from rl.errors import DataError

_SHIPPED = Path(__file__).parent / "builtin"
READERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".jsonl": ("text", {}),
    ".json": ("text", {}),
    ".txt": ("text", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
}
"""Reader of ``datasets`` and its options, by the end of a file's name."""
BUILTIN: Mapping[str, Path] = {
    "builtin": _SHIPPED / "sums.jsonl",
    "builtin:layouts": _SHIPPED / "layouts.jsonl",
}
"""Tables that come with vlcot, shuffled: all 6,400 sums of two numbers below 80, and 360 pictures of two colours in
words, with the regions they mean (``rl.data.regions``)."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TRAIN = "train"
"""The one split of a file."""
LINE = "line"
TEXT = "text"
"""The column of a file of lines."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_BATCH = 1000
_NO_ROW = "corresponds to no data"
"""What the library says of a table with a head and nothing else."""
_SAVED = ("state.json", "dataset_dict.json")
"""One of these is in a folder that ``save_to_disk`` wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows, read where they are asked for."""

    name: str
    """As it is configured, for messages."""
    label: str
    """Short, for the ids of prompts."""
    folder: Path
    """Where its relative paths start from."""
    data: Any
    """``datasets.Dataset`` that gives Arrow."""
    features: Any
    """How its cells are decoded; pictures are not."""
    is_json: bool
    """Whether a row is an object of JSON, as text."""
    unit: str
    """What a row is to its reader: a ``line``, counted from 1, or a ``row``, counted from 0."""
    rows: NDArray[np.int64]
    """Numbers of its rows, ``[n]``; blank lines have none."""
    columns: tuple[str, ...] = ()
    """Of any row, in order of appearance."""

    def where(self, row: int) -> str:
        """Say which row, as its reader would find it."""
        return f"{self.name} {self.unit} {row + (self.unit == LINE)}"

    def row(self, row: int) -> dict[str, Any]:
        """Return a row by column, pictures as they are stored.

        Raises:
            DataError: If a line is no JSON object.
        """
        (cells,) = self.data[row : row + 1].to_pylist()
        return self._parsed(cells[TEXT], row) if self.is_json else dict(self.features.decode_example(cells))

    def column(self, name: str) -> Iterator[Any]:
        """Yield one column's cells of all rows, in order; None where a row lacks it."""
        if self.is_json:
            return (values.get(name) for values in self.objects())
        return self._stored(name)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Yield the objects of JSON, in order."""
        for row, line in zip(self.rows, self._stored(TEXT), strict=True):
            yield self._parsed(line, int(row))

    def _stored(self, name: str) -> Iterator[Any]:
        """Yield a column's cells as they are stored, a bounded number of them in memory at a time."""
        data = self.data.select_columns([name])
        for batch in np.split(self.rows, range(_BATCH, len(self.rows), _BATCH)):
            yield from data[batch][name].to_pylist()

    def _parsed(self, line: str, row: int) -> dict[str, Any]:
        try:
            values = json.loads(line.lstrip("\ufeff"))
        except ValueError as error:
            raise DataError(
                f"{self.where(row)}: no JSON ({first_line(error)}); want one object a line, or one list of objects"
            ) from error
        if not isinstance(values, dict):
            raise DataError(
                f"{self.where(row)}: holds a {type(values).__name__}, want an object {{column: value}}"
            )
        return values


def open_table(source: str, *, split: str = TRAIN, key: str) -> Table:
    """Open a table.

    Args:
        source: A file, a pattern of files, a folder or a hub name, with ``:configuration`` where it has several;
            ``@split`` may follow; or a name of ``BUILTIN``.
        split: Which split, where the source does not say.
        key: Of the source in the configuration, for messages.

    Raises:
        DataError: If it is not there, cannot be read, has no such split, or no row.
    """
    source = str(BUILTIN.get(source, source))
    place, at, named = source.rpartition("@")
    if at and not Path(source).exists():
        source, split = place, named
    path = Path(source)
    files = (
        sorted(glob.glob(str(path))) if glob.has_magic(str(path)) else [str(path)] if path.is_file() else []
    )
    if files:
        return _open_files(source, files, split, key)
    if path.is_dir():
        return _open_folder(source, path, split)
    if not _HUB_NAME.fullmatch(source) or path.suffix in READERS:
        near = suggest(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else ())
        raise DataError(f"{key}: no file, folder or data set {source}{near or '; check the path'}")
    return _table(source, path.name, split, Path(), _load(source, source.split(":"), {}))


def _open_files(source: str, files: Sequence[str], split: str, key: str) -> Table:
    first = Path(files[0])
    suffixes = [suffix.lower() for suffix in first.suffixes if suffix.lower() not in COMPRESSED]
    if not suffixes or suffixes[-1] not in READERS:
        raise DataError(f"{key}: {source} is no file we read; want a name that ends in {' '.join(READERS)}")
    if empty := next((file for file in files if Path(file).stat().st_size == 0), None):
        raise DataError(f"{empty}: the file is empty (0 bytes); fill it or name another in {key}")
    suffix, label = suffixes[-1], first.name.partition(".")[0]
    reader, options = READERS[suffix]
    is_json = suffix in (".json", ".jsonl")
    if is_json and (objects := _listed(first)) is not None:
        data, unit = _library().Dataset.from_dict({TEXT: objects}), "row"
    else:
        data = _load(source, [reader], {"data_files": list(files), **options})
        unit = LINE if reader == TEXT else "row"
    return _table(source, label, split, first.parent, data, is_json=is_json, unit=unit)


def _open_folder(source: str, path: Path, split: str) -> Table:
    if any((path / name).is_file() for name in _SAVED):
        try:
            data = _library().load_from_disk(str(path))
        except (OSError, ValueError) as error:
            raise DataError(f"{source}: cannot be read: {first_line(error)}; save it again") from error
    else:
        data = _load(source, [str(path)], {})
    return _table(source, path.resolve().name, split, path, data)


def _table(
    source: str,
    label: str,
    split: str,
    folder: Path,
    read: Any,
    *,
    is_json: bool = False,
    unit: str = "row",
) -> Table:
    """Put a table together from what the library returned: all splits, or one."""
    splits = list(read) if isinstance(read, dict) else list(dict.fromkeys([str(read.split or TRAIN), TRAIN]))
    _check_split(split, splits, source)
    data = read[split] if isinstance(read, dict) else read
    if len(data) == 0:
        raise DataError(f"{source}: has no row; fill it or name another")
    data, features = data.with_format("arrow"), _undecoded(data.features)
    rows = np.arange(len(data))
    if unit == LINE:
        rows = np.flatnonzero(pc.not_equal(pc.utf8_trim_whitespace(data.data.column(TEXT)), "").to_numpy())
    if not len(rows):
        raise DataError(f"{source}: has nothing but blank lines; fill it or name another")
    table = Table(
        name=source,
        label=(label if split == TRAIN else f"{label}@{split}").replace("#", "_"),
        folder=folder,
        data=data,
        features=features,
        is_json=is_json,
        unit=unit,
        rows=rows,
    )
    names = (name for values in table.objects() for name in values) if is_json else data.column_names
    return replace(table, columns=tuple(dict.fromkeys(names)))


def _listed(path: Path) -> list[str] | None:
    """Return the objects of a JSON file that is one list, each as a line; None for a file of lines."""
    if path.suffix.lower() in COMPRESSED:
        return None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        if not file.read(4096).lstrip().startswith("["):
            return None
        file.seek(0)
        try:
            return [json.dumps(row) for row in json.load(file)]
        except ValueError as error:
            raise DataError(f"{path}: no JSON ({first_line(error)}); mend it") from error


def _load(source: str, arguments: Sequence[str], options: Mapping[str, Any]) -> Any:
    """Have the library read something, all splits of it."""
    datasets = _library()
    try:
        return datasets.load_dataset(*arguments, **options)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, TypeError) as error:
        reason = first_line(error.__cause__ or error)
        if _NO_ROW in reason:
            raise DataError(f"{source}: has no row; fill it or name another") from error
        raise DataError(f"{source}: cannot be read: {reason}; check the file, or the name") from error


def _check_split(split: str, splits: Sequence[str], source: str) -> None:
    if split not in splits:
        near = suggest(split, splits) or f"; there are {', '.join(splits)}"
        raise DataError(f"{source}: no split {split!r}{near}")


def _undecoded(feature: Any) -> Any:
    """Return how cells are decoded, with pictures and other media left as they are stored."""
    datasets = _library()
    if isinstance(feature, dict):
        return type(feature)({name: _undecoded(inner) for name, inner in feature.items()})
    if isinstance(feature, list):
        return [_undecoded(inner) for inner in feature]
    if hasattr(feature, "feature"):
        return replace(feature, feature=_undecoded(feature.feature))
    if hasattr(feature, "decode") and not isinstance(feature, datasets.Json):
        return replace(feature, decode=False)
    return feature


def _library() -> Any:
    """Import the library, which takes most of a second, where there is a table to read."""
    import datasets

    datasets.disable_progress_bars()
    return datasets
