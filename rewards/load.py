"""Loader of rewards: from ``rewards.<name>`` in the config to a ``Reward``; a mistake costs one line with its key."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from typing import Any

from configs.errors import prefixed
from configs.schema import BlockConfig, Config, RewardConfig
from configs.suggest import suggest
from rewards.base import Need, Reward
from rewards.plain.compute_score import ComputeScoreReward, is_compute_score
from rewards.plain.functions import FunctionReward, is_trl_function
from rewards.plain.reward_inputs import RewardInputsReward, is_reward_inputs
from rl.advantage.combine import RewardTerm
from rl.advantage.overlong import overlong_terms
from rl.errors import ConfigError
from rl.targets import check_options, load_target


def load_reward(name: str, config: RewardConfig) -> Reward:
    """Import ``config.target`` and make the reward, not yet set up.

    Args:
        name: Key of the reward.
        config: ``target`` names a ``Reward`` class, or a plain function with TRL's, verl's or EasyR1's signature.

    Raises:
        ConfigError: If the target cannot be found, is neither, or does not take the options.
    """
    key = f"rewards.{name}"
    thing = load_target(config.target, key=f"{key}.target")
    is_class = inspect.isclass(thing)
    if not callable(thing) or (is_class and not issubclass(thing, Reward)):
        raise ConfigError(f"{key}.target: {config.target} is neither a Reward class nor a function")
    if inspect.isabstract(thing):
        raise ConfigError(
            f"{key}.target: {config.target} lacks {', '.join(sorted(thing.__abstractmethods__))}()"
        )
    if is_class:
        check_options(thing, config.options, key=f"{key}.options")
    make = thing if is_class else _wrapper(key, config.target, thing)
    with prefixed(f"{key}.options: "):
        reward = make(**config.options)
    with prefixed(f"{key}.target: {config.target} declares "):
        _check_declared(reward)
    return reward


def _check_declared(reward: Reward) -> None:
    """Refuse declarations that mean nothing: every score of such a reward would be an error, or every chain missing.

    Raises:
        ConfigError: Names the declaration.
    """
    needs = reward.needs
    if (
        isinstance(needs, str)
        or not isinstance(needs, Collection)
        or not all(isinstance(n, str) for n in needs)
    ):
        raise ConfigError(f"needs={needs!r}; want a set of words, as in frozenset({{'text'}})")
    for name, number in {"low": reward.low, "high": reward.high, "missing": reward.missing}.items():
        if isinstance(number, bool) or not isinstance(number, Real) or math.isnan(number):
            raise ConfigError(f"{name}={number!r}; want a number")
    if not reward.low < reward.high:
        raise ConfigError(f"the range {reward.low:g} to {reward.high:g}, which is empty; want low < high")


def _judged_blocks(
    reward: Reward, name: str, config: RewardConfig, chain: Mapping[str, BlockConfig]
) -> tuple[str, ...]:
    """Return the blocks the reward gives credit to: the config's, or those it declares."""
    key = f"rewards.{name}"
    paints = any(block.kind == "image" for block in chain.values())
    if Need.FINAL_PICTURE in reward.needs and not paints:
        raise ConfigError(f"{key}: judges the final picture, and the chain paints none; take it out")
    with prefixed(f"{key}.options: "):
        declared = reward.judged_blocks(chain)
        if isinstance(declared, str) or not isinstance(declared, Sequence):
            raise ConfigError(f"judged_blocks() returned {declared!r}; want names of blocks")
    for field, blocks in (("options", declared), ("blocks", config.blocks)):
        for block in blocks:
            if block not in chain:
                near = suggest(block, chain)
                raise ConfigError(f"{key}.{field}: {block!r} is not a block of the chain{near}")
    return tuple(config.blocks) or declared


def reward_terms(config: Config) -> dict[str, RewardTerm]:
    """Return what the combination must know of every reward, pseudo-rewards included.

    Raises:
        ConfigError: If a reward cannot be loaded or does not fit the chain, or a gate needs a number that a
            reward does not declare.
    """
    terms = {name: reward_term(name, reward, config.chain) for name, reward in config.rewards.items()}
    if (gate := config.advantage.gate) in terms:
        _check_gate(gate, terms)
    return terms | overlong_terms(config)


def reward_term(name: str, config: RewardConfig, chain: Mapping[str, BlockConfig]) -> RewardTerm:
    """Return what the combination must know of one reward.

    Raises:
        ConfigError: If the reward cannot be loaded or does not fit the chain, or a block is not in the chain.
    """
    reward = load_reward(name, config)
    sign = 1.0 if reward.larger_is_better else -1.0
    return RewardTerm(
        weight=config.weight,
        blocks=_judged_blocks(reward, name, config, chain),
        best=reward.high if reward.larger_is_better else -reward.low,
        missing=sign * reward.missing,
    )


def _check_gate(gate: str, terms: Mapping[str, RewardTerm]) -> None:
    if not math.isfinite(terms[gate].best):
        raise ConfigError(
            f"advantage.gate: {gate} declares no best score that a chain could reach; give "
            f"rewards.{gate}.options its high, or name another reward"
        )
    for name, term in terms.items():
        if name != gate and term.weight and not math.isfinite(term.missing or 0.0):
            raise ConfigError(
                f"advantage.gate: chains that miss it get rewards.{name}'s missing value, which is "
                f"{term.missing}; have {name} declare a finite one"
            )


def _wrapper(key: str, target: str, function: Callable[..., Any]) -> Callable[..., Reward]:
    """Choose the reward that calls a plain function, by its signature."""
    try:
        if is_compute_score(function):
            return functools.partial(ComputeScoreReward, function)
        if is_reward_inputs(function):
            return functools.partial(RewardInputsReward, function)
        if is_trl_function(function):
            return functools.partial(FunctionReward, function)
        said = f"takes ({', '.join(inspect.signature(function).parameters)})"
    except ValueError:  # a function of C without a signature
        said = "does not say what it takes"
    raise ConfigError(
        f"{key}.target: {target} {said}; want f(prompts, completions, **columns) as in TRL, "
        "compute_score(data_source, solution_str, ground_truth, extra_info) as in verl, or "
        "compute_score(reward_inputs) as in EasyR1"
    )
