"""Plain keys and values in, frozen dataclasses out: types are checked, and every mistake names its full key.

Knows dataclasses, mappings by name, lists, literals, and unions of dataclasses that a ``kind`` tells apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from configs.errors import ConfigError
from configs.schema import Config

RENAMED = {"num_rollout_workers": "num_workers"}
"""Keys of older configurations -> what they are called now."""
KIND = "kind"
"""The key that says which method of a union is meant."""


def build(kind: Any, value: Any, key: str = "") -> Any:
    """Make a value of a type; what a mapping leaves out keeps the dataclass's default.

    Raises:
        ConfigError: For the first value of the wrong type; has its key, what is wanted and what was given.
    """
    if methods := methods_of(kind):
        name = _method_name(kind, value, key)
        content = _as_mapping(value)
        _check_constants(methods, name, content, key)
        _check_sections(methods, name, content, key)
        return build(methods[name], content, key)
    if is_dataclass(kind) and isinstance(kind, type):
        _check_mapping(value, key)
        hints = hints_of(kind)
        _check_names(value, list(hints), key)
        return kind(**{name: build(hints[name], entry, _join(key, name)) for name, entry in value.items()})
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise _wrong(kind, value, key)
        return {name: build(get_args(kind)[1], entry, _join(key, name)) for name, entry in value.items()}
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise _wrong(kind, value, key)
        return [build(get_args(kind)[0], entry, f"{key}[{index}]") for index, entry in enumerate(value)]
    return _scalar(kind, value, key)


def _scalar(kind: Any, value: Any, key: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is Any:
        return value
    if kind is float and is_number:
        return float(value)
    if kind is int and is_number and float(value).is_integer():
        return int(value)
    if kind is str and isinstance(value, str | int | float):
        return str(value)
    if kind is bool and isinstance(value, bool):
        return value
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    raise _wrong(kind, value, key)


def merge(base: Mapping[str, Any], layer: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Put one mapping on top of another of the same type.

    Mappings are merged key by key. Where a layer names another method than the base, the base's constants go
    with the base's method.
    """
    merged = dict(base)
    for name, value in layer.items():
        inner = child(kind, name)
        old = merged.get(name)
        if methods_of(inner) and isinstance(value, str | Mapping):
            said = _as_mapping(old) if isinstance(old, str | Mapping) else {}
            before = {KIND: next(iter(methods_of(inner))), **said}
            new = _as_mapping(value)
            if new.get(KIND, before[KIND]) == before[KIND]:
                merged[name] = merge(before, new, methods_of(inner).get(before[KIND], Any))
            else:
                merged[name] = new
        elif isinstance(value, Mapping):
            merged[name] = merge(old if isinstance(old, Mapping) else {}, value, inner)
        else:
            merged[name] = value
    return merged


# --------------------------------------------------------------------------------- keys


def check_keys(content: Any, kind: Any, key: str = "") -> None:
    """Raise ``ConfigError`` for the first key that a type lacks, and for a value where keys belong."""
    if methods := methods_of(kind):
        if isinstance(content, Mapping):
            # Without a kind the method is another layer's: any method's constants may be meant.
            named = [methods[_method_name(kind, content, key)]] if KIND in content else list(methods.values())
            known = {name: hint for method in reversed(named) for name, hint in hints_of(method).items()}
            _check_names(content, sorted(known), key, kind)
            for name, value in content.items():
                owners = [hints_of(method)[name] for method in named if name in hints_of(method)]
                if any(is_dataclass(owner) for owner in owners):
                    _check_section(value, owners, _join(key, name))
        elif _is_section(methods):
            _check_mapping(content, key)
        return
    entry = entry_of(kind)
    if not (entry or is_dataclass(kind)):
        return
    _check_mapping(content, key)
    hints = hints_of(kind) if not entry and isinstance(kind, type) else {}
    if not entry:
        _check_names(content, list(hints), key, kind)
    for name, value in content.items():
        if not isinstance(name, str):
            raise ConfigError(f"{_join(key, str(name))}: names are text; write it in quotes")
        check_keys(value, entry or hints[name], _join(key, name))


def _check_section(content: Any, sections: Sequence[Any], key: str) -> None:
    """Check a section that several kinds have: a key must be one of theirs."""
    _check_mapping(content, key)
    known = {name: hint for section in sections for name, hint in hints_of(section).items()}
    _check_names(content, sorted(known), key)
    for name, value in content.items():
        check_keys(value, known[name], _join(key, name))


def _is_section(methods: Mapping[str, type]) -> bool:
    """Whether a union is written as keys and values only, not by name."""
    return "token" in methods or "photographs" in methods


def _check_names(content: Mapping[Any, Any], known: Sequence[str], key: str, kind: Any = None) -> None:
    for name in content:
        if not isinstance(name, str):
            raise ConfigError(f"{_join(key, str(name))}: names are text; write it in quotes")
        if name not in known:
            raise ConfigError(f"{_join(key, name)}: no such key; {suggest(name, known, key, kind)}")


def _check_constants(methods: Mapping[str, type], name: str, content: Mapping[Any, Any], key: str) -> None:
    """Say whose constant it is that was given to a method that has none of its name."""
    for word in content:
        owners = [other for other, method in methods.items() if word in hints_of(method)]
        if owners and name not in owners:
            raise ConfigError(
                f"{_join(key, word)}: no such key of {name}; {', '.join(owners)} has it: set {key}.kind={owners[0]}"
            )


def _check_sections(methods: Mapping[str, type], name: str, content: Mapping[Any, Any], key: str) -> None:
    """Say that a section's key is of another kind."""
    for section, hint in hints_of(methods[name]).items():
        if not (is_dataclass(hint) and isinstance(hint, type)):
            continue
        others = [hints_of(other)[section] for other in methods.values() if section in hints_of(other)]
        for word in content.get(section, {}):
            if word not in hints_of(hint) and any(word in hints_of(other) for other in others):
                raise ConfigError(f"{key}.{section}.{word}: has no meaning for a {name} policy; take it out")


def suggest(name: str, siblings: Sequence[str], prefix: str, kind: Any = None) -> str:
    """Say which key was meant, of a section or of one inside it, or which there are."""
    inside = {full.rpartition(".")[2]: full for full in _leaves(kind, "")} if kind is not None else {}
    inside = {leaf: full for leaf, full in inside.items() if "<" not in full}
    name = RENAMED.get(name, name)
    if name in inside:
        return f"did you mean {_join(prefix, inside[name])}?"
    elsewhere = [full for full in schema_keys() if full.rpartition(".")[2] == name]
    if near := nearest(name, siblings):
        return f"did you mean {_join(prefix, near)}?"
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    if near := nearest(name, list(inside)):
        return f"did you mean {_join(prefix, inside[near])}?"
    return f"known here: {', '.join(sorted(siblings)) or 'none'}"


@cache
def schema_keys() -> list[str]:
    """Every key a user can set, ``<name>`` for the names they choose themselves."""
    return list(_leaves(Config, ""))


def _leaves(kind: Any, prefix: str) -> Iterator[str]:
    if entry := entry_of(kind):
        yield from _leaves(entry, f"{prefix}<name>.")
    elif methods := methods_of(kind):
        keys = (key for method in methods.values() for key in _leaves(method, prefix))
        yield from dict.fromkeys(keys)
    elif is_dataclass(kind) and isinstance(kind, type):
        for name, hint in hints_of(kind).items():
            if is_dataclass(hint) or entry_of(hint) or _is_section(methods_of(hint)):
                yield from _leaves(hint, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"


def nearest(word: str, words: Sequence[str]) -> str:
    """Return the word that is spelt most like this one, '' if none is."""
    lowered = {known.lower().replace("-", "_"): known for known in words}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else ""


# --------------------------------------------------------------------------------- types


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """Field types of a dataclass."""
    return get_type_hints(kind)


def entry_of(kind: Any) -> Any:
    """Return the dataclass of a mapping's entries, or None."""
    if get_origin(kind) is dict and (is_dataclass(entry := get_args(kind)[1]) or methods_of(entry)):
        return entry
    return None


def methods_of(kind: Any) -> dict[str, type]:
    """Return a union's dataclasses by kind; nothing for other types."""
    return (
        {str(getattr(method, KIND)): method for method in get_args(kind)}
        if isinstance(kind, UnionType)
        else {}
    )


def child(kind: Any, name: str) -> Any:
    """Return the type below a type; Any where it says nothing."""
    if entry := entry_of(kind):
        return entry
    return hints_of(kind).get(name, Any) if is_dataclass(kind) and isinstance(kind, type) else Any


def _method_name(kind: Any, value: Any, key: str) -> str:
    methods = methods_of(kind)
    mapping = _as_mapping(value)
    name = mapping.get(KIND, next(iter(methods))) if isinstance(mapping, Mapping) else value
    if name not in methods:
        near = nearest(str(name), list(methods))
        hint = f"; did you mean {near}?" if near else ""
        if _is_section(methods):
            _check_mapping(value, key)
            key = f"{key}.{KIND}"
        raise ConfigError(f"{key}: want one of {', '.join(methods)}, got {_show(name)}{hint}")
    return str(name)


def _as_mapping(value: Any) -> Any:
    """A method's bare name stands for the method with its defaults, an import path for one of the user's own."""
    if isinstance(value, str):
        return {KIND: "own", "target": value} if ":" in value else {KIND: value}
    if isinstance(value, Mapping) and "target" in value and KIND not in value:
        return {KIND: "own", **value}
    return value


# --------------------------------------------------------------------------------- words


def one_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _check_mapping(value: Any, key: str) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}: want keys and values below it, got {_show(value)}")


def _wrong(kind: Any, value: Any, key: str) -> ConfigError:
    return ConfigError(f"{key}: want {_want(kind)}, got {_show(value)}")


def _want(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(kind))
    if get_origin(kind) is list:
        return "a list"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
        kind, "keys and values"
    )


def _show(value: Any) -> str:
    return "nothing" if value is None else repr(value)
