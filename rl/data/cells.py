"""Cells of a table as JSON: what rewards are told, recorded chains keep and the wire carries."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rl.errors import DataError
from rl.types import Json


def as_json(value: Any, *, where: str, fills: bool) -> Json:
    """Turn a cell into JSON types; a number that is none (an empty cell of a CSV) becomes None.

    Args:
        value: As the table holds it.
        where: File, row and column, for messages.
        fills: Whether the table fills absent keys of its structs with None, which are left out then.

    Raises:
        DataError: If JSON has nothing for it.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        number = float(value)
        if math.isinf(number):
            raise DataError(f"{where}: is {number}, which no JSON holds; replace it or remove the row")
        return None if math.isnan(number) else number
    if isinstance(value, dict):
        kept = {str(key): cell for key, cell in value.items() if not (fills and cell is None)}
        return {key: as_json(cell, where=f"{where}.{key}", fills=fills) for key, cell in kept.items()}
    if isinstance(value, list | tuple):
        return [as_json(cell, where=f"{where}[{i}]", fills=fills) for i, cell in enumerate(value)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    raise DataError(
        f"{where}: a {type(value).__name__} is no text, number, list or mapping; take the column out"
    )


def read_path(row: Mapping[str, Any], path: str) -> Any:
    """Return the value under a column's name, or under ``column.key``; None where there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
