"""Types of configuration values: what YAML may write for them, and the range a number must be in.

Numbers written as text are refused, as are ``true`` for a number and a fraction for a whole number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from configs.paths import expand
from configs.suggest import suggest

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of whole configurations: no key that the schema lacks, no number that is none."""
TAG = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Names of blocks, policies and rewards: parts of names of files, metrics and actors."""
MOST = 10**9
"""Of anything that is counted: more steps, chains or bytes than that are a slip of the finger."""
TARGET = re.compile(r"[A-Za-z_][\w.]{0,254}:[A-Za-z_][\w.]{0,254}")
"""``package.module:Thing``, by which a user's own is named."""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"{value!r} has half a character (a lone surrogate), which no file can hold")
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def one_of(names: Sequence[str], own: str) -> AfterValidator:
    """Let pass some names, and import paths of the user's own, written like ``own``."""

    def check(value: str) -> str:
        if value not in names and not TARGET.fullmatch(value):
            known = f"want one of {', '.join(names)}, or {own}"
            raise ValueError(f"{known}, got {value!r}{suggest(value, names)}")
        return value

    return AfterValidator(check)


Text = Annotated[str, Field(strict=True), BeforeValidator(_text)]
FilePath = Annotated[Text, AfterValidator(expand)]
"""A file or folder, or what may be meant in its place: a URI, a name on a hub."""
Flag = Annotated[bool, Field(strict=True)]

Whole = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1), BeforeValidator(_whole)]
Natural = Annotated[Whole, Field(ge=0, le=MOST)]
Count = Annotated[Whole, Field(ge=1, le=MOST)]

Workers = Annotated[Count, Field(le=4096)]
"""Processes of one kind."""

Number = Annotated[float, Field(strict=True)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
"""Of a whole, 0..1."""
Rate = Annotated[Number, Field(gt=0, le=1)]
"""A part that is more than nothing, at most 1."""


class ByName:
    """Marks a union whose methods may be written as a bare name, or as an import path of one's own."""
