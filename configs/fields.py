"""Types of configuration values: what YAML may write for them, and the range a number must be in.

Numbers written as text are refused, as are ``true`` for a number and a fraction for a whole number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from configs.suggest import suggest

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of whole configurations: no key that the schema lacks, no number that is none."""
TAG = re.compile(r"[a-z][a-z0-9_]*")
"""Names of blocks, policies and rewards."""
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""``package.module:Thing``, by which a user's own is named."""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
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
Flag = Annotated[bool, Field(strict=True)]

Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Natural = Annotated[Whole, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]

Number = Annotated[float, Field(strict=True)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
"""Of a whole, 0..1."""
Rate = Annotated[Number, Field(gt=0, le=1)]
"""A part that is more than nothing, at most 1."""


class ByName:
    """Marks a union whose methods may be written as a bare name, or as an import path of one's own."""
