"""Targets: what ``package.module:Thing`` in a configuration names, imported and tried before a run starts.

Every registry that takes a user's own (rewards, trackers, model families, data, surrogates, baselines, samplers) finds
it here, so that a slip costs the same one line everywhere: the key, what is wrong, and the nearest right name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from configs.suggest import suggest
from rl.errors import ConfigError


def load_target(target: str, *, key: str) -> Any:
    """Import what a target names.

    Args:
        target: ``package.module:Thing``.
        key: Full key in the configuration, which messages begin with.

    Raises:
        ConfigError: If the target is not of that form, no such module or name is there, or the module ends the process.
            Another error that the module itself raises stays as it is: its author is told more by it.
    """
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigError(f"{key}: want package.module:Thing, got {target!r}")
    module = _import(module_name, key)
    if not hasattr(module, attribute):
        near = suggest(attribute, (name for name in vars(module) if not name.startswith("_")))
        raise ConfigError(f"{key}: {module_name} has no {attribute!r}{near}")
    return getattr(module, attribute)


def check_options(thing: Callable[..., Any], options: Mapping[str, Any], *, key: str) -> None:
    """Refuse keyword arguments that a class or function does not take.

    Args:
        thing: What will be called.
        options: Its keyword arguments, all of them.
        key: Full key of the options in the configuration.

    Raises:
        ConfigError: Names the option, what there is, and the nearest.
    """
    signature = inspect.signature(thing)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ConfigError(f"{key}: {error}; {_takes(thing, signature, options)}") from error


def check_function(
    thing: Any, arguments: Sequence[str], options: Mapping[str, Any] | None = None, *, key: str
) -> None:
    """Refuse what cannot be called with these positional arguments and options.

    Args:
        thing: What a target named.
        arguments: Names of the positional arguments it will get, in order, for the message.
        options: Its keyword arguments.
        key: Full key of the target in the configuration.

    Raises:
        ConfigError: Says which signature is wanted, and which it has.
    """
    name = getattr(thing, "__qualname__", repr(thing))
    want = f"want {name.rpartition('.')[2]}({', '.join([*arguments, *(options or {})])})"
    if not callable(thing):
        raise ConfigError(f"{key}: {name} is no function; {want}")
    try:
        signature = inspect.signature(thing)
    except ValueError:  # a function of C that does not say what it takes: the first call will tell
        return
    try:
        signature.bind(*arguments, **(options or {}))
    except TypeError as error:
        raise ConfigError(f"{key}: {name}{signature} cannot be called: {error}; {want}") from error


def _takes(thing: Callable[..., Any], signature: inspect.Signature, options: Mapping[str, Any]) -> str:
    unknown = [option for option in options if option not in signature.parameters]
    near = "".join(suggest(option, signature.parameters) for option in unknown)
    known = ", ".join(signature.parameters) or "none"
    return f"{getattr(thing, '__name__', thing)} takes: {known}{near}"


def _import(name: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except SystemExit as error:
        raise ConfigError(
            f"{key}: the module {name} calls sys.exit({error.code!r}) when it is imported; put that below "
            'if __name__ == "__main__"'
        ) from error
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, something it imports is not
        near = suggest(error.name, _siblings(error.name)) or "; is its folder on PYTHONPATH?"
        raise ConfigError(f"{key}: no module {error.name!r}{near}") from error


def _siblings(name: str) -> list[str]:
    """Return the modules of the package that ``name`` would be in."""
    package, _, _ = name.rpartition(".")
    if not package:
        return []
    paths = getattr(importlib.import_module(package), "__path__", ())
    return [module.name for module in pkgutil.iter_modules(paths, f"{package}.")]
