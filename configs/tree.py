"""The schema as a tree of types: what lies below a key, and which kinds a union has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from configs.fields import ByName

KIND = "kind"
"""The key that says which dataclass of a union is meant."""


def plain(kind: Any) -> Any:
    """Return a type without its annotations."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """Field types of a dataclass, with their annotations."""
    return get_type_hints(kind, include_extras=True)


def methods_of(kind: Any) -> dict[str, type]:
    """Return a union's dataclasses by kind, the default first; nothing for other types."""
    kind = plain(kind)
    return {str(getattr(m, KIND)): m for m in get_args(kind)} if isinstance(kind, UnionType) else {}


def is_by_name(kind: Any) -> bool:
    """Whether a union's methods may be written as a bare name."""
    return any(isinstance(mark, ByName) for mark in getattr(kind, "__metadata__", ()))


def entry_of(kind: Any) -> Any:
    """Return the type of a mapping's entries where they have keys of their own, or None."""
    if get_origin(kind) is dict and (is_dataclass(entry := get_args(kind)[1]) or methods_of(entry)):
        return entry
    return None


def child(kind: Any, name: Any) -> Any:
    """Return the type below a type; Any where it says nothing."""
    if entry := entry_of(kind):
        return entry
    if get_origin(kind) is list:
        return get_args(kind)[0]
    return hints_of(kind).get(name, Any) if is_dataclass(kind) and isinstance(kind, type) else Any


def leaves(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield every key that can be set below a type, ``<name>`` for the names that users choose."""
    if entry := entry_of(kind):
        yield from leaves(entry, f"{prefix}<name>.")
    elif methods := methods_of(kind):
        keys = (key for method in methods.values() for key in leaves(method, prefix))
        yield from dict.fromkeys(keys)
    elif is_dataclass(kind) and isinstance(kind, type):
        for name, hint in hints_of(kind).items():
            has_keys = is_dataclass(hint) or entry_of(hint) or (methods_of(hint) and not is_by_name(hint))
            yield from leaves(hint, f"{prefix}{name}.") if has_keys else [f"{prefix}{name}"]
