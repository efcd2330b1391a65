"""Checks of rewards: what they credit, the gate and the baseline, measurements and the alarm, and their actors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.derive import REWARD_ATTEMPTS, eval_metrics, final_px, measured_only
from configs.errors import ConfigError, prefixed
from configs.fields import TAG, TARGET
from configs.load import secret_values
from configs.paths import expand
from configs.schema import Config, RewardConfig

_ENV_KEYS = ("pip", "python", "env_vars")


def check_rewards(config: Config) -> None:
    """Raise ``ConfigError`` for the first reward that cannot be named, loaded or credited."""
    if not any(reward.weight > 0 for reward in config.rewards.values()):
        raise ConfigError("rewards: none has a weight above 0, so nothing can be learned; set one's weight")
    for name, reward in config.rewards.items():
        key = f"rewards.{name}"
        if not TAG.fullmatch(name):
            raise ConfigError(f"{key}: no usable name; use at most 64 lower-case letters, digits and '_'")
        if not TARGET.fullmatch(reward.target):
            raise ConfigError(f"{key}.target: want package.module:Class, got {reward.target!r}")
        for block in reward.blocks:
            if block not in config.chain:
                raise ConfigError(
                    f"{key}.blocks: the chain has no block {block!r}; it has {', '.join(config.chain)}"
                )
        if reward.weight > 0 and reward.on_failure == "monitor_only":
            raise ConfigError(
                f"{key}.on_failure: monitor_only needs weight 0; a chain without its score cannot be trained"
            )


def check_reward_actors(config: Config, *, paths: bool) -> None:
    """Refuse deadlines that do not fit into the run's, and environments that cannot be.

    Raises:
        ConfigError: Names the key and the remedy.
    """
    for name, reward in config.rewards.items():
        key = f"rewards.{name}"
        if reward.deadline_s * REWARD_ATTEMPTS >= config.deadline_s:
            raise ConfigError(
                f"{key}.deadline_s: {REWARD_ATTEMPTS} attempts of {reward.deadline_s:g} s do not fit into the run's "
                f"deadline_s {config.deadline_s:g}; lower it, or raise deadline_s"
            )
        _check_env(f"{key}.env", reward.env, paths=paths)


def runtime_env(reward: RewardConfig) -> dict[str, Any]:
    """Return Ray's ``runtime_env`` of a reward's actors; a requirements file is read here, on the driver."""
    env: dict[str, Any] = {"env_vars": secret_values(reward.env.get("env_vars", {}))}
    pip = reward.env.get("pip", [])
    if isinstance(pip, str):
        lines = (line.partition(" #")[0].strip() for line in Path(expand(pip)).read_text().splitlines())
        pip = [line for line in lines if line and not line.startswith("#")]
    if pip:
        env["pip"] = list(pip)
    if python := reward.env.get("python"):
        env["py_executable"] = str(Path(expand(python)).absolute())
    return env


def _check_env(key: str, env: Mapping[str, Any], *, paths: bool) -> None:
    for entry in env:
        if entry not in _ENV_KEYS:
            raise ConfigError(f"{key}.{entry}: no such key; known here: {', '.join(_ENV_KEYS)}")
    pip, python = env.get("pip", []), env.get("python", "")
    if not isinstance(pip, str) and not (isinstance(pip, list) and all(isinstance(p, str) for p in pip)):
        raise ConfigError(
            f"{key}.pip: want a list of requirements or the path of a file of them, got {pip!r}"
        )
    if not isinstance(python, str):
        raise ConfigError(f"{key}.python: want the path of an interpreter, got {python!r}")
    if pip and python:
        raise ConfigError(f"{key}: pip and python exclude each other; install into that Python's environment")
    _check_variables(f"{key}.env_vars", env.get("env_vars", {}))
    if paths:
        secret_values(env.get("env_vars", {}), f"{key}.env_vars")
    for entry, path in {"pip": pip if isinstance(pip, str) else "", "python": python}.items():
        with prefixed(f"{key}.{entry}: "):
            if paths and not Path(expand(path)).is_file() and path:
                raise ConfigError(f"no file {path}")


def _check_variables(key: str, variables: Any) -> None:
    if not isinstance(variables, Mapping) or not all(
        isinstance(value, str | int | float) for value in variables.values()
    ):
        raise ConfigError(f"{key}: want names and values, got {variables!r}")
    if "PYTHONPATH" in variables:
        raise ConfigError(f"{key}.PYTHONPATH: is ours; give the folder in plugins")


# --------------------------------------------------------------------------------- advantage


_OVERLONG = "overlong"
"""Name of the pseudo-reward of ``overlong=punish``."""


def check_advantage(config: Config) -> None:
    """Raise ``ConfigError`` for the first method that cannot work with the rewards and the chain."""
    _check_gate(config)
    advantage = config.advantage
    if advantage.baseline == "batch" and advantage.scale == "group_std":
        raise ConfigError(
            "advantage.scale: group_std divides a distance from the batch by the spread of one group, which may "
            "be 0; with baseline=batch use batch_std or none"
        )
    _check_overlong(config)


def _check_gate(config: Config) -> None:
    gate = config.advantage.gate
    if not gate:
        return
    if gate not in config.rewards:
        known = ", ".join(config.rewards) or "none"
        raise ConfigError(f"advantage.gate: no reward {gate!r}; rewards are {known}")
    if not any(reward.weight > 0 for name, reward in config.rewards.items() if name != gate):
        raise ConfigError(
            f"advantage.gate: {gate} has no other reward with a weight above 0 to hold back; take the gate out"
        )


def _check_overlong(config: Config) -> None:
    if config.overlong == "train":
        return
    if not any(block.kind == "text" for block in config.chain.values()):
        raise ConfigError(
            f"overlong: {config.overlong} is about text, and the chain has no text block; use train"
        )
    if config.overlong == "punish" and _OVERLONG in config.rewards:
        raise ConfigError(f"rewards.{_OVERLONG}: the name is taken by overlong=punish; give it another")


# --------------------------------------------------------------------------------- measurements


LEAST_WINDOW = 8
"""A shorter window has too few steps for any trend."""


def check_measures(config: Config) -> None:
    """Raise ``ConfigError`` where measurements share a name, or an alarm could never go off."""
    if eval_metrics(config) and not final_px(config.chain):
        raise ConfigError("eval.metrics: nothing is measured, the chain paints no picture; take it out")
    for name in config.rewards:
        if name in eval_metrics(config):
            raise ConfigError(
                f"rewards.{name}: eval.metrics has a {name} too, and one would hide the other; call the reward "
                f"my_{name}, say, or take {name} out of eval.metrics"
            )
        if name == "total":
            raise ConfigError("rewards.total: is the name of the weighted sum; give the reward another")
    if 0 < config.alarm_window < LEAST_WINDOW:
        raise ConfigError(
            f"alarm_window: want at least {LEAST_WINDOW} steps, or 0 for none, got {config.alarm_window}"
        )
    if config.on_alarm == "log":
        return
    if not config.alarm_window:
        raise ConfigError("on_alarm: stop needs trends to be tested; set alarm_window above 0")
    if not measured_only(config) and not (config.eval.every and eval_metrics(config)):
        raise ConfigError(
            "on_alarm: stop needs something to watch; give a reward weight 0, or set eval.every above 0 to watch "
            "eval.metrics"
        )
