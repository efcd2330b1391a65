"""Small JSON files of a run: their shapes, checked where they are read, so that a damaged one costs one clear line.

Files of older versions are brought to the present form here.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar

from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from rl.errors import DamagedFileError
from rl.measure.statistics import BICUBIC, FORMAT, GAIN, NOW, START
from rl.types import JsonDict

T = TypeVar("T")
DRAWN = "drawn"
"""Key of ``eval.json`` for answers drawn at the policies' temperature; else as the file itself."""
RENAMED = {
    "coldstart": START, "grpo": NOW, "grpo-coldstart": GAIN, "grpo-bicubic": f"{NOW}-{BICUBIC}",
}  # fmt: skip
"""Rows and pairs by their names of before."""
State = Literal["running", "finished", "failed", "alarm", "interrupted"]
"""Of a run, in ``status.json``."""


def read_as(path: Path, shape: type[T]) -> T:
    """Return the content of a JSON file that we once wrote.

    Args:
        path: The file.
        shape: What it must be: a ``TypedDict``, a dataclass, or ``dict[str, ...]`` of such.

    Raises:
        DamagedFileError: One line that names the file and what is wrong with it.
    """
    try:
        adapter: TypeAdapter[T] = _adapter(shape)  # type: ignore[arg-type]
        return adapter.validate_json(path.read_bytes())
    except OSError as error:
        raise DamagedFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = "it is empty" if path.stat().st_size == 0 else first["msg"]
        raise DamagedFileError(f"{path}: damaged: {f'{where}: ' if where else ''}{what}") from error


def json_lines(path: Path) -> tuple[list[JsonDict], int]:
    """Return the objects of a file that has one a line, and how many lines before its last hold none.

    The last may be cut: a run that was killed leaves half a line. No file, no objects. A line may be part of an array,
    as in Chrome's trace format.
    """
    if not path.is_file():
        return [], 0
    records, damaged = [], list[int]()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines):
        text = line.strip().strip(",")
        if text in {"", "[", "]"}:
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            damaged.append(number)
    return records, sum(number < len(lines) - 1 for number in damaged)


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


# --------------------------------------------------------------------------------- shapes


@with_config(ConfigDict(extra="allow"))
class _Open(TypedDict):
    """Keys that are not listed are kept, here and in all that extend it."""


class Cell(_Open):
    """A mean of ``eval.json``."""

    mean: FiniteFloat
    interval: list[FiniteFloat | None]
    num: int


class Gain(_Open):
    """A paired difference of ``eval.json``."""

    mean: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    num: int


class Summary(_Open):
    """What ``rl.measure.statistics.summarise_eval`` makes."""

    rows: dict[str, dict[str, Cell]]
    paired: dict[str, dict[str, Gain]]
    num_prompts: int
    prompts: dict[str, dict[str, dict[str, FiniteFloat | None]]]


class Drawn(Summary):
    """Answers drawn at the policies' temperature, in ``eval.json``."""

    num_samples: int


class Evaluation(Summary):
    """``eval.json``."""

    format: NotRequired[int]
    drawn: NotRequired[Drawn]


class TrackerNote(_Open):
    """What has become of one tracker, in ``tracking.json``."""

    state: Literal["on", "failed"]
    kept: dict[str, Any]
    at: NotRequired[str]
    reason: NotRequired[str]


class _Doing(_Open):
    name: str
    seconds: FiniteFloat
    details: dict[str, Any]


class _Asked(_Open):
    by: str
    method: str
    num: int
    seconds: FiniteFloat


class _Pool(_Open):
    num_in_hand: int
    done_per_s: FiniteFloat
    version: int | None


class _Worker(_Open):
    name: str
    host: str
    pid: int
    silent_s: FiniteFloat | None
    doing: list[_Doing]
    asked: list[_Asked]
    pools: list[_Pool]


class Status(_Open):
    """``status.json``; see ``cluster.record.observer``."""

    name: str
    state: State
    error: str
    pid: int
    pid_begin_s: FiniteFloat
    host: str
    begin_s: FiniteFloat
    updated_s: FiniteFloat
    num_updates: int
    num_done: int
    num_steps: int
    doing: list[_Doing]
    workers: list[_Worker]


class _Part(_Open):
    text: NotRequired[str]


class _Message(_Open):
    role: str
    content: list[_Part]


class _Prompt(_Open):
    prompt_id: str
    messages: list[_Message]
    pictures: dict[str, str]
    shown: list[str]
    reference: dict[str, Any]


class _Chain(_Open):
    chain_id: str
    group_id: str
    step: int
    kind: str
    model: str
    finish: str
    error: str
    text: str
    rewards: dict[str, FiniteFloat | None]
    total: FiniteFloat | None


class ChainRecord(_Chain):
    """``chain.json``; see ``cluster.record.recorder``."""

    format: int
    prompt: _Prompt
    pictures: dict[str, str]
    final_block: str


class OldChainRecord(_Chain):
    """The same before formats were numbered, when every prompt was a photograph."""

    prompt_id: str
    pictures: list[str]
    labels: list[str]
    tags: list[str]


# --------------------------------------------------------------------------------- readers


def read_notes(path: Path) -> dict[str, TrackerNote]:
    """Return what has become of a run's trackers, by name; {} where it has none.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    return read_as(path, dict[str, TrackerNote]) if path.exists() else {}


def read_evaluation(path: Path) -> JsonDict:
    """Return the content of ``eval.json`` or ``eval_<sampler>.json``, in the present form.

    Raises:
        DamagedFileError: If it is damaged, or of a newer version.
    """
    content: JsonDict = {**read_as(path, Evaluation)}
    if content.get("format", 0) > FORMAT:
        raise DamagedFileError(f"{path}: is of format {content['format']}; this version reads {FORMAT}")
    return content if "format" in content else _renamed(content) | {"format": FORMAT}


def _renamed(value: Any) -> Any:
    """Give the rows of an evaluation of before formats were numbered their present names."""
    if not isinstance(value, dict):
        return value
    return {RENAMED.get(key, key): _renamed(entry) for key, entry in value.items()}
