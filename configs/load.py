"""One YAML file and ``key=value`` overrides in, one frozen ``Config`` out.

The only place that reads a configuration. A mistake costs one line that names the full key, and the
nearest right one where a key is misspelt. What the values *mean* together is ``configs.validate``'s job.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from configs.errors import ConfigError
from configs.schema import ColdstartConfig, Config, DataConfig

SHIPPED = Path(__file__).parent
"""Folder of the YAML files that can be named without a path."""

RESOLVED = "resolved.yaml"
"""The file in a run directory that holds the whole configuration of the run."""

COLDSTART_KEYS = (
    "seed",
    "scale",
    "chain",
    "policies.*.kind",
    "policies.*.source",
    *(f"data.{field.name}" for field in fields(DataConfig) if field.name != "pairs"),
    *(f"coldstart.{field.name}" for field in fields(ColdstartConfig) if field.name != "directory"),
)
"""What determines the cold start; ``data.pairs`` serves evaluation alone."""

_DEFINING_KEY = {"chain": "kind", "policies": "kind", "rewards": "target"}
"""A new entry of a mapping, made by an override, must say this; else its name is taken for a slip."""


def shipped_names() -> list[str]:
    """Names of the shipped configurations, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_config(name_or_path: str) -> Path:
    """Return the YAML file meant by a path, a run directory or the name of a shipped configuration.

    Raises:
        ConfigError: If there is no such file; names the nearest shipped one.
    """
    path = Path(name_or_path)
    shipped = SHIPPED / f"{name_or_path}.yaml"
    for candidate in (path, path / RESOLVED, shipped):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise ConfigError(f"{name_or_path}: a folder without {RESOLVED}; give a run directory or a YAML file")
    names = shipped_names()
    near = _nearest(path.stem, names)
    hint = f"did you mean {near!r}? " if near else ""
    raise ConfigError(f"{name_or_path}: no such configuration; {hint}shipped are {', '.join(names)}")


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration and put overrides on top.

    Args:
        name_or_path: A YAML file, a run directory (its ``resolved.yaml``) or the name of a shipped file.
        overrides: ``key=value`` with dotted keys and YAML values, e.g. ``rewards.format.weight=0.5``.

    Returns:
        The frozen configuration. Values are of the right type; whether they fit together is for
        ``configs.validate.validate``.

    Raises:
        ConfigError: For a file, key or value that cannot be; one line.
    """
    path = find_config(name_or_path)
    content = _read(path)
    _check_keys(content, Config, "")
    merged = _merge(OmegaConf.structured(Config), content)
    for override in overrides:
        layer = _parse_override(override)
        _check_keys(layer, Config, "")
        _check_new_entries(layer, merged, [item.partition("=")[0] for item in overrides])
        merged = _merge(merged, layer)
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    if not isinstance(config, Config):
        raise TypeError(f"OmegaConf made a {type(config).__name__} of {path}")
    return config


def to_yaml(config: Config) -> str:
    """Write every key, defaults too; ``load_config`` of the file gives an equal ``Config``."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def digest(config: Config, keys: Sequence[str] = COLDSTART_KEYS) -> str:
    """Hash the named parts of a configuration: equal parts, equal digest, on every machine.

    Args:
        config: Any configuration.
        keys: Dotted keys; ``*`` stands for every name at its place. A key may name a whole subtree, in
            which the order of mappings counts (the order of ``chain`` is its meaning).

    Returns:
        12 hexadecimal digits.

    Raises:
        KeyError: If the configuration has no such key.
    """
    tree = asdict(config)
    parts = [part for key in sorted(keys) for part in _select(tree, key.split("."), "")]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()


# --------------------------------------------------------------------------------- reading


def _read(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {_one_line(error)}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path}: want keys and values, got a list")
    return _plain(content)


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, _ = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"{override!r}: overrides are written key=value, e.g. num_steps=10")
    try:
        return _plain(OmegaConf.from_dotlist([override]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{override!r}: the value is not valid YAML") from error


def _plain(content: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(content, resolve=False)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _merge(base: Any, layer: Mapping[str, Any]) -> Any:
    try:
        return OmegaConf.merge(base, layer)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error


def _explain(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or "")
    want = _want(_type_at(key.split("."))) if isinstance(error, ValidationError) else ""
    if not want:
        return f"{key}: {_one_line(error)}" if key else _one_line(error)
    return f"{key}: want {want}, got {_show(error.value)}"


def _show(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


# --------------------------------------------------------------------------------- keys


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _entry_type(kind: Any) -> Any:
    """The dataclass of a mapping's entries, or None."""
    if get_origin(kind) is dict and is_dataclass(entry := get_args(kind)[1]):
        return entry
    return None


def _check_keys(content: Any, kind: Any, prefix: str) -> None:
    """Raise ``ConfigError`` for the first key that ``kind`` lacks, and for a value where keys belong."""
    entry = _entry_type(kind)
    if not (entry or is_dataclass(kind)):
        return
    if not isinstance(content, Mapping):
        raise ConfigError(f"{prefix}: want keys and values below it, got {_show(content)}")
    hints = _hints(kind) if not entry and isinstance(kind, type) else {}
    for key, value in content.items():
        full = f"{prefix}.{key}" if prefix else str(key)
        if not isinstance(key, str):
            raise ConfigError(f"{full}: names are text; write it in quotes")
        if not entry and key not in hints:
            raise ConfigError(f"{full}: no such key; {_suggest(key, list(hints), prefix)}")
        _check_keys(value, entry or hints[key], full)


def _check_new_entries(layer: Mapping[str, Any], merged: Any, overridden: Sequence[str]) -> None:
    for mapping, defining in _DEFINING_KEY.items():
        known = list(merged[mapping])
        for name in layer.get(mapping, {}):
            if name in known or f"{mapping}.{name}.{defining}" in overridden:
                continue
            full = f"{mapping}.{name}"
            raise ConfigError(
                f"{full}: no such entry; {_suggest(name, known, mapping)}, or set {full}.{defining} to add it"
            )


def _suggest(key: str, siblings: Sequence[str], prefix: str) -> str:
    near = _nearest(key, siblings)
    if near:
        return f"did you mean {prefix}.{near}?" if prefix else f"did you mean {near}?"
    elsewhere = [full for full in _all_keys(Config, "") if full.rpartition(".")[2] == key]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known here: {', '.join(sorted(siblings)) or 'none'}"


def _nearest(word: str, words: Sequence[str]) -> str:
    lowered = {known.lower().replace("-", "_"): known for known in words}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else ""


def _all_keys(kind: Any, prefix: str) -> Iterator[str]:
    """Every leaf key of the schema; ``<name>`` stands for a mapping's own names."""
    entry = _entry_type(kind)
    if entry:
        yield from _all_keys(entry, f"{prefix}<name>.")
    elif is_dataclass(kind) and isinstance(kind, type):
        for name, hint in _hints(kind).items():
            if is_dataclass(hint) or _entry_type(hint):
                yield from _all_keys(hint, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"


def schema_keys() -> list[str]:
    """Every key a user can set, ``<name>`` for the names they choose themselves."""
    return list(_all_keys(Config, ""))


def _type_at(path: Sequence[str]) -> Any:
    kind: Any = Config
    for part in path:
        name, item, _ = part.partition("[")
        entry = _entry_type(kind)
        if entry:
            kind = entry
        elif is_dataclass(kind) and isinstance(kind, type):
            kind = _hints(kind).get(name)
        if item:
            kind = get_args(kind)[0]
    return kind


def _want(kind: Any) -> str:
    """A type in words, '' where there is none to name."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(kind))
    if get_origin(kind) in {list, dict}:
        return "a list" if get_origin(kind) is list else "keys and values"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(kind, "keys and values" if is_dataclass(kind) else "")


# --------------------------------------------------------------------------------- digest


def _select(tree: Any, path: Sequence[str], prefix: str) -> Iterator[tuple[str, Any]]:
    if not path:
        yield prefix, tree
        return
    names = sorted(tree) if path[0] == "*" else [path[0]]
    for name in names:
        yield from _select(tree[name], path[1:], f"{prefix}.{name}")
