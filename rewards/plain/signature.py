"""Arguments of a plain function, read off its signature before a run starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from configs.suggest import suggest
from rl.errors import ConfigError


def choose_arguments(
    function: Callable[..., Any],
    constants: Mapping[str, Any],
    *,
    told: Sequence[str],
    on_request: Sequence[str] = (),
    columns: Sequence[str] = (),
    options: Sequence[str],
) -> tuple[str, ...]:
    """Name the keyword arguments of every call.

    Args:
        function: Whatever a config names.
        constants: Options that are not the reward's own, meant as constants of the function.
        told: Arguments there are: all of them where it takes ``**kwargs``, else those it names.
        on_request: Further ones, for a function that names them.
        columns: What it wants of the prompts (``wanted_columns``).
        options: The reward's own options, for suggestions.

    Raises:
        ConfigError: If an option is nobody's, or the function requires something else.
    """
    name = getattr(function, "__name__", repr(function))
    signature = inspect.signature(function)
    parameters = signature.parameters
    for option in constants:
        if option in told or option in on_request:
            raise ConfigError(f"{option!r} is told in every call, it cannot be set")
        if option not in parameters:
            near = suggest(option, [*options, *parameters])
            raise ConfigError(f"{option!r} is no parameter of {name}(){near}")
    takes_all = takes_anything(function)
    chosen = [word for word in told if takes_all or word in parameters]
    chosen += [word for word in on_request if word in parameters]
    chosen += columns
    try:
        signature.bind(**dict.fromkeys((*chosen, *constants)))
    except TypeError as error:
        raise ConfigError(
            f"{name}() cannot be called: {error}; it is told {', '.join(told)}, and options can be its constants"
        ) from error
    return tuple(chosen)


def wanted_columns(function: Callable[..., Any], known: Collection[str]) -> tuple[str, ...]:
    """Name the parameters without a default that are not ``known``: columns that prompts must have."""
    return tuple(
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in known
    )


def names_any(function: Callable[..., Any], words: Sequence[str]) -> bool:
    """Whether a function has a parameter of one of these names."""
    return bool(set(words) & set(inspect.signature(function).parameters))


def takes_anything(function: Callable[..., Any]) -> bool:
    """Whether a function takes ``**kwargs``."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
