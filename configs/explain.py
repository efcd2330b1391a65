"""Messages of wrong keys and values, in one line: the full key, what is wanted and given, and the nearest right one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin

from configs.fields import MOST
from configs.suggest import nearest, suggest
from configs.tree import KIND, child, entry_of, hints_of, is_by_name, leaves, methods_of, plain

UNKNOWN = "unexpected_keyword_argument"
RENAMED = {"num_rollout_workers": "num_workers", "judges": "metrics"}
"""Keys of older configurations -> what they are called now."""
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A union on the way to a key."""

    key: str
    kind: Any
    """Type of the union."""
    chosen: str
    """The kind that was taken."""
    path: tuple[str, ...] = ()
    """Names from there to the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the schema a fault lies."""

    key: str
    kind: Any
    """Type that the value should have."""
    owner: Any
    """The dataclass or mapping that the key is of."""
    choice: Choice | None
    """The nearest union above."""


def explain(faults: Sequence[Mapping[str, Any]], root: Any, prefix: str) -> str:
    """Return a line about the first fault; misspelt keys come first, as the rest may follow from them.

    Args:
        faults: ``ValidationError.errors()``.
        root: The type that was wanted.
        prefix: Key of the whole.
    """
    fault = next((fault for fault in faults if fault["type"] == UNKNOWN), faults[0])
    place, given = _locate(fault["loc"], root, prefix), fault["input"]
    if fault["type"] == "invalid_key" or "[key]" in fault["loc"]:
        return f"{place.key}: names are text; write it in quotes"
    if fault["type"] == UNKNOWN:
        return _unknown(place, str(fault["loc"][-1]), root)
    if fault["type"] == "value_error":
        return f"{place.key}: {fault['ctx']['error']}"
    if methods := methods_of(place.kind):
        return _no_method(place, methods, given)
    if plain(place.kind) is float and isinstance(given, int | float) and not isinstance(given, bool):
        given = float(given)
    is_typed = fault["type"].endswith("_type")
    want = _want(place.kind) if is_typed else _range(place.kind, given) or _want(place.kind)
    return f"{place.key}: want {want}, got {_show(given)}"


def missing_entry(name: str, known: Iterable[str], mapping: str) -> str:
    """Say which entry of a mapping was meant, or which there are."""
    near = nearest(name, known)
    return f"did you mean {mapping}.{near}?" if near else _known_here(known)


def _locate(loc: Sequence[Any], root: Any, prefix: str) -> Place:
    """Follow pydantic's location down the schema; the kind that was taken is a step of its own in it."""
    key, kind, owner = prefix, root, None
    choice: Choice | None = None
    for item in loc:
        if item == "[key]":
            continue
        if methods := methods_of(kind):
            choice, kind = Choice(key=key, kind=kind, chosen=str(item)), methods[item]
            continue
        owner, kind = kind, child(kind, item)
        key = f"{key}[{item}]" if get_origin(owner) is list else _join(key, str(item))
        choice = choice and replace(choice, path=(*choice.path, str(item)))
    return Place(key=key, kind=kind, owner=owner, choice=choice)


# --------------------------------------------------------------------------------- unknown keys


def _unknown(place: Place, name: str, root: Any) -> str:
    if choice := place.choice:
        methods = methods_of(choice.kind)
        owners = [kind for kind, m in methods.items() if kind != choice.chosen and _has(m, choice.path)]
        if owners and is_by_name(choice.kind):
            remedy = f"{', '.join(owners)} has it: set {choice.key}.{KIND}={owners[0]}"
            return f"{place.key}: no such key of {choice.chosen}; {remedy}"
        if owners:
            is_policy = choice.key.startswith("policies.")
            kind = f"a {choice.chosen} policy" if is_policy else f"{choice.key}.{KIND}={choice.chosen}"
            return f"{place.key}: has no meaning for {kind}; take it out"
    return f"{place.key}: no such key; {_meant(name, place, root)}"


def _has(kind: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not (is_dataclass(kind) and isinstance(kind, type) and name in hints_of(kind)):
            return False
        kind = child(kind, name)
    return True


def _meant(name: str, place: Place, root: Any) -> str:
    prefix, siblings = place.key.rpartition(".")[0], list(hints_of(place.owner))
    name = RENAMED.get(name, name)
    inside = {full.rpartition(".")[2]: full for full in leaves(place.owner) if "<" not in full}
    elsewhere = [full for full in _keys(root) if full.rpartition(".")[2] == name]
    if name in inside:
        return f"did you mean {_join(prefix, inside[name])}?"
    if near := nearest(name, siblings):
        return f"did you mean {_join(prefix, near)}?"
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    if near := nearest(name, inside):
        return f"did you mean {_join(prefix, inside[near])}?"
    return _known_here(siblings)


@cache
def _keys(root: Any) -> list[str]:
    return list(leaves(root))


def _known_here(names: Iterable[str]) -> str:
    return f"known here: {', '.join(sorted(names)) or 'none'}"


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


# --------------------------------------------------------------------------------- wrong values


def _no_method(place: Place, methods: Mapping[str, type], given: Any) -> str:
    key, named = place.key, given.get(KIND) if isinstance(given, Mapping) else given
    if not is_by_name(place.kind):
        if not isinstance(given, Mapping):
            return f"{key}: want keys and values below it, got {_show(given)}"
        key = f"{key}.{KIND}"
    return f"{key}: want one of {', '.join(methods)}, got {_show(named)}{suggest(str(named), methods)}"


def _want(kind: Any) -> str:
    kind = plain(kind)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(kind))
    if get_origin(kind) is list:
        return "a list"
    if is_dataclass(kind) or entry_of(kind):
        return "keys and values below it"
    return _WORDS.get(kind, "keys and values")


def _range(kind: Any, given: Any) -> str:
    """Say which numbers are allowed, ``MOST`` only where it is exceeded; '' for a type that is no number."""
    if plain(kind) not in (int, float):
        return ""
    bounds = {
        name: getattr(bound, name)
        for mark in kind.__metadata__
        for bound in getattr(mark, "metadata", ())
        for name in ("gt", "ge", "le")
        if hasattr(bound, name)
    }
    low = f"above {bounds['gt']:g}" if "gt" in bounds else f"at least {bounds.get('ge', -math.inf):g}"
    low = "finite" if low == "at least -inf" else low
    has_top = "le" in bounds and (bounds["le"] < MOST or given > bounds["le"])
    return low + (f" and at most {bounds['le']:g}" if has_top else "")


def _show(value: Any) -> str:
    return "nothing" if value is None else repr(value)
