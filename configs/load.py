"""Loader of configurations: one YAML file and ``key=value`` overrides in, one frozen ``Config`` out.

The only place that reads a configuration. A mistake costs one line that names the full key, and the
nearest right one where a key is misspelt. What the values *mean* together is ``configs.checks.validate``'s job.

Layers, each on top of the one before: the schema's defaults, the algorithm that the file names, the file, the
algorithm that an override names (it takes the place of the file's), the other overrides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.algorithms import algorithm_layer, entries
from configs.build import build, merge
from configs.call import restored_entries
from configs.errors import ConfigError, first_line
from configs.explain import missing_entry
from configs.paths import expand
from configs.schema import (
    BlockConfig,
    ColdstartConfig,
    Config,
    DenoisingPolicyConfig,
    Photographs,
    PolicyConfig,
    WriterConfig,
)
from configs.suggest import suggest

SHIPPED = Path(__file__).parent
"""Folder of the YAML files that can be named without a path."""

SEARCH = "search"
"""The section of a file that is for ``vlcot search`` alone (``configs.search``)."""

RESOLVED = "resolved.yaml"
"""The file in a run directory that holds the whole configuration of the run."""

LONGEST_SHOWN = 80
"""Characters of an override that a message repeats."""

DIGEST_FORMAT = 2
"""How a cold start's digest is made; 1 took every value, defaults too."""

_SECRET = "${oc.env:"
"""A value out of this process's environment begins with it."""

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
    path = Path(expand(name_or_path))
    shipped = SHIPPED / f"{name_or_path}.yaml"
    for candidate in (path, path / RESOLVED, shipped):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise ConfigError(f"{name_or_path}: a folder without {RESOLVED}; give a run directory or a YAML file")
    names = shipped_names()
    hint = suggest(path.stem, names) or ";"
    raise ConfigError(f"{name_or_path}: no such configuration{hint} shipped are {', '.join(names)}")


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration and put overrides on top.

    Args:
        name_or_path: A YAML file, a run directory (its ``resolved.yaml``) or the name of a shipped file.
        overrides: ``key=value`` with dotted keys and YAML values, e.g. ``rewards.format.weight=0.5``.

    Returns:
        The frozen configuration. Values are of the right type; whether they fit together is for
        ``configs.checks.validate.validate``.

    Raises:
        ConfigError: For a file, key or value that cannot be; one line.
    """
    path = find_config(name_or_path)
    content = read_yaml(path)
    content.pop(SEARCH, None)
    if path.name == RESOLVED:
        _check_age(content, path)
    return layered(content, overrides)


def _check_age(content: Mapping[str, Any], path: Path) -> None:
    """Refuse what another version wrote: a run goes on with its own keys or not at all."""
    try:
        layered(content, [])
    except ConfigError as error:
        raise ConfigError(
            f"{path.parent}: the run was made by another version of vlcot ({error}); go on with that version, or "
            "start a new run from its configuration file"
        ) from error


def layered(content: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """Put overrides on top of a file's content, and the algorithm where it belongs.

    Args:
        content: What the file says, without its search.
        overrides: As in ``load_config``.

    Raises:
        ConfigError: For a key or value that cannot be; one line.
    """
    layers = [parse_override(override) for override in overrides]
    overridden = [override.partition("=")[0] for override in overrides]
    known = dict(content)
    for layer in layers:
        _check_new_entries(layer, known, overridden)
        known = merge(known, layer, Config)
    method = algorithm_layer(known)
    # Named in an override it goes above the file: who asks for it on the command line wants it.
    first = [content, method] if "algorithm" in overridden else [method, content]
    tree: dict[str, Any] = {}
    for part in [*first, *layers]:
        tree = merge(tree, part, Config)
    if isinstance(rewards := tree.get("rewards"), Mapping):
        # rewards.generation=null takes the reward out.
        tree["rewards"] = {name: reward for name, reward in rewards.items() if reward is not None}
    config: Config = build(Config, _resolved(tree))
    return config


def to_yaml(config: Config) -> str:
    """Write every key, defaults too; ``load_config`` of the file gives an equal ``Config``."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def digest(config: Config) -> str:
    """Hash what determines the cold start, as far as it differs from the defaults.

    A key that is added later changes no digest until it is set. The order of ``chain`` counts, being its meaning.

    Returns:
        12 hexadecimal digits, the same on every machine.
    """
    # Pairs serve evaluation alone.
    data = replace(config.data, pairs="") if isinstance(config.data, Photographs) else config.data
    starts = {
        name: [
            policy.kind,
            _changed(_start_of(policy), type(policy)()),
        ]
        for name, policy in sorted(config.policies.items())
    }
    parts = {
        "format": DIGEST_FORMAT,
        "run": _changed(Config(seed=config.seed, scale=config.scale), Config()),
        "chain": [[name, _changed(block, BlockConfig())] for name, block in config.chain.items()],
        "policies": starts,
        "data": _changed(data, Photographs()),
        "coldstart": _changed(replace(config.coldstart, directory=""), ColdstartConfig()),
    }
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()


_NOT_OF_THE_START = ("num_threads", "num_gpus", "dtype", "learner", "rollout", "loss")
"""Keys of a policy that writes tokens on which its cold start does not depend."""


def _start_of(policy: PolicyConfig) -> PolicyConfig:
    """Return a policy of which only what its cold start depends on is set."""
    if isinstance(policy, WriterConfig):
        plain = type(policy)()
        return replace(policy, **{name: getattr(plain, name) for name in _NOT_OF_THE_START})
    return DenoisingPolicyConfig(
        family=policy.family, source=policy.source, call=restored_entries(policy.call)
    )


def _changed(value: Any, default: Any) -> Any:
    """Return the keys of a dataclass whose values differ from the defaults, and its kind if that does."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    is_other = type(value) is not type(default)
    base = type(value)() if is_other else default
    pairs = {field.name: (getattr(value, field.name), getattr(base, field.name)) for field in fields(value)}
    keys = {name: _changed(new, old) for name, (new, old) in sorted(pairs.items()) if new != old}
    return {"kind": pairs["kind"][0], **keys} if is_other else keys


# --------------------------------------------------------------------------------- reading


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file, interpolations as they stand.

    Raises:
        ConfigError: If it cannot be read, or holds no keys and values.
    """
    try:
        content = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error.full_key}: {first_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: not valid YAML: it is nested too deeply") from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # a number of 5000 digits is a ValueError
        raise ConfigError(f"{path}: cannot be read: {first_line(error)}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path}: want keys and values, got a list")
    return _plain(content)


def _resolved(tree: Mapping[str, Any]) -> Any:
    """Put in what ``${key}`` stands for."""
    try:
        return OmegaConf.to_container(OmegaConf.create(_keep_secrets(dict(tree))), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from error


def _keep_secrets(node: Any, path: tuple[str, ...] = ()) -> Any:
    """Escape ``${oc.env:NAME}`` in variables of rewards' environments: these stay references (``secret_values``)."""
    if isinstance(node, dict):
        return {key: _keep_secrets(value, (*path, str(key))) for key, value in node.items()}
    is_variable = path[:1] == ("rewards",) and path[2:4] == ("env", "env_vars")
    return node.replace(_SECRET, f"\\{_SECRET}") if is_variable and isinstance(node, str) else node


def secret_values(variables: Mapping[str, Any], key: str = "env_vars") -> dict[str, str]:
    """Return variables of a reward's environment as its worker gets them: ``${oc.env:NAME}`` is looked up here.

    What is configured, recorded and shown keeps the reference, so that no secret stands in a file.

    Args:
        variables: As configured.
        key: Where, for the error.

    Raises:
        ConfigError: If this process has no such variable.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.create(dict(variables)), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}.{error.full_key}: {first_line(error)}") from error
    return {str(name): str(value) for name, value in cast(dict[str, Any], values).items()}


def parse_override(override: str) -> dict[str, Any]:
    """Return what ``key=value`` says, as nested keys and values; ``key=`` is empty text.

    Raises:
        ConfigError: If it is not of that form, or the value is not valid YAML.
    """
    key, equals, value = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"{override!r}: overrides are written key=value, e.g. num_steps=10")
    try:
        return _plain(OmegaConf.from_dotlist([override if value.strip() else f"{key}=''"]))
    except (ValueError, IndexError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        shown = override if len(override) <= LONGEST_SHOWN else f"{override[:LONGEST_SHOWN]}..."
        raise ConfigError(f"{shown!r}: the value is not valid YAML") from error


def _plain(content: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(content, resolve=False)
    return cast(dict[str, Any], plain) if isinstance(plain, dict) else {}


def _check_new_entries(
    layer: Mapping[str, Any], merged: Mapping[str, Any], overridden: Sequence[str]
) -> None:
    for mapping, defining in _DEFINING_KEY.items():
        known, named = entries(merged, mapping), layer.get(mapping)
        taken_out = (
            [str(name) for name, entry in named.items() if entry is None]
            if isinstance(named, Mapping)
            else []
        )
        for name in [*entries(layer, mapping), *taken_out]:
            if name in known or f"{mapping}.{name}.{defining}" in overridden:
                continue
            full = f"{mapping}.{name}"
            raise ConfigError(
                f"{full}: no such entry; {missing_entry(name, known, mapping)}, or set {full}.{defining} to add it"
            )
