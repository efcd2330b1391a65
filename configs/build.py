"""Builder: layers of plain keys and values in, frozen dataclasses out.

Pydantic checks types, ranges and unknown keys; ``configs.explain`` makes one line of what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from configs.errors import ConfigError
from configs.explain import explain
from configs.tree import KIND, child, is_by_name, methods_of


def build(kind: Any, value: Any, key: str = "") -> Any:
    """Make a value of a type; what a mapping leaves out keeps the dataclass's default.

    Args:
        kind: A dataclass of the schema.
        value: Keys and values.
        key: Where they stand, for messages.

    Raises:
        ConfigError: For a key or value that cannot be; has its key, what is wanted and what was given.
    """
    try:
        return _adapter(kind).validate_python(_merged(None, value, kind))
    except ValidationError as error:
        raise ConfigError(explain(error.errors(include_url=False), kind, key)) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def merge(base: Mapping[str, Any], layer: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Put one mapping on top of another of the same type.

    Mappings are merged key by key. Where a layer names another method than the base, the base's constants go
    with the base's method.
    """
    merged = dict(base)
    for name, value in layer.items():
        merged[name] = _merged(merged.get(name), value, child(kind, name))
    return merged


def _merged(old: Any, new: Any, kind: Any) -> Any:
    if methods := methods_of(kind):
        old, new = _as_mapping(old, kind), _as_mapping(new, kind)
        if not isinstance(new, Mapping):
            return new
        # The first of a union is what is meant where nobody names one.
        before = {KIND: next(iter(methods)), **(old if isinstance(old, Mapping) else {})}
        chosen = new.get(KIND, before[KIND])
        base = before if chosen == before[KIND] else {KIND: chosen}
        return merge(base, new, methods.get(str(chosen), Any))
    if not isinstance(new, Mapping):
        return new
    return merge(old if isinstance(old, Mapping) else {}, new, kind)


def _as_mapping(value: Any, kind: Any) -> Any:
    """A method's bare name stands for the method with its defaults, an import path for one of the user's own.

    Of a mapping without a kind, a key that says enough decides: ``target``, or one with the name of a kind.
    """
    if isinstance(value, str) and is_by_name(kind):
        is_own = ":" in value and "${" not in value
        return {KIND: "own", "target": value} if is_own else {KIND: value}
    if isinstance(value, Mapping) and KIND not in value:
        if "target" in value:
            return {KIND: "own", **value}
        if named := next((name for name in methods_of(kind) if name in value), None):
            return {KIND: named, **value}
    return value
