"""From ``rewards.<name>`` in the config to a ``Reward``; every mistake is one line that names the key."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from configs.schema import BlockConfig, RewardConfig
from rewards.base import Reward
from rewards.functions import FunctionReward
from rl.errors import ConfigError


def load_reward(name: str, config: RewardConfig) -> Reward:
    """Import ``config.target`` and make the reward, not yet set up.

    Args:
        name: Key of the reward.
        config: ``target`` names a ``Reward`` class, or a plain function with TRL's signature.

    Raises:
        ConfigError: If the target cannot be found, is neither, or does not take the options.
    """
    key = f"rewards.{name}"
    thing = _find(key, config.target)
    if inspect.isclass(thing) and issubclass(thing, Reward):
        _check_options(f"{key}.options", thing, config.options)
        try:
            return thing(**config.options)
        except ConfigError as error:
            raise ConfigError(f"{key}.options: {error}") from error
    if inspect.isfunction(thing):
        return FunctionReward(thing, **config.options)
    raise ConfigError(f"{key}.target: {config.target} is neither a Reward class nor a function")


def judged_blocks(name: str, config: RewardConfig, chain: Mapping[str, BlockConfig]) -> tuple[str, ...]:
    """Return the blocks the reward gives credit to: the config's, or those it declares.

    Raises:
        ConfigError: If one is not in the chain.
    """
    blocks = tuple(config.blocks) or load_reward(name, config).judged_blocks(chain)
    for block in blocks:
        if block not in chain:
            key = f"rewards.{name}.blocks"
            raise ConfigError(f"{key}: {block!r} is not a block of the chain{suggest(block, chain)}")
    return blocks


def suggest(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean x?' for the nearest known names, or ''."""
    near = difflib.get_close_matches(word, list(known), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _find(key: str, target: str) -> Any:
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigError(f"{key}.target: want package.module:Thing, got {target!r}")
    module = _import(key, module_name)
    if not hasattr(module, attribute):
        near = suggest(attribute, (n for n in vars(module) if not n.startswith("_")))
        raise ConfigError(f"{key}.target: {module_name} has no {attribute!r}{near}")
    return getattr(module, attribute)


def _import(key: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, something it imports is not: the author's own error says more
        raise ConfigError(f"{key}.target: no module {error.name!r}; is its folder on PYTHONPATH?") from error


def _check_options(key: str, cls: type[Reward], options: Mapping[str, Any]) -> None:
    signature = inspect.signature(cls)
    try:
        signature.bind(**options)
    except TypeError as error:
        unknown = [option for option in options if option not in signature.parameters]
        near = "".join(suggest(option, signature.parameters) for option in unknown)
        known = ", ".join(signature.parameters) or "none"
        raise ConfigError(f"{key}: {error}; {cls.__name__} takes: {known}{near}") from error
