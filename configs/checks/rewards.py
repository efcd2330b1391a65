"""What a reward's actors and the folders of plug-ins must be; called by ``configs.checks.validate``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs import PACKAGES
from configs.derive import REWARD_ATTEMPTS
from configs.errors import ConfigError
from configs.load import secret_values
from configs.schema import Config, RewardConfig

_ENV_KEYS = ("pip", "python", "env_vars")


def check_reward_actors(config: Config, *, paths: bool) -> None:
    """Refuse deadlines that do not fit into the run's, and environments that cannot be.

    Raises:
        ConfigError: Names the key and the remedy.
    """
    for name, reward in config.rewards.items():
        key = f"rewards.{name}"
        if reward.num_gpus > 1 and reward.num_gpus % 1:
            raise ConfigError(f"{key}.num_gpus: above 1 want a whole number, got {reward.num_gpus}")
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
        lines = (line.partition(" #")[0].strip() for line in Path(pip).expanduser().read_text().splitlines())
        pip = [line for line in lines if line and not line.startswith("#")]
    if pip:
        env["pip"] = list(pip)
    if python := reward.env.get("python"):
        env["py_executable"] = str(Path(python).expanduser().absolute())
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
        if paths and path and not Path(path).expanduser().is_file():
            raise ConfigError(f"{key}.{entry}: no file {path}")


def _check_variables(key: str, variables: Any) -> None:
    if not isinstance(variables, Mapping) or not all(
        isinstance(value, str | int | float) for value in variables.values()
    ):
        raise ConfigError(f"{key}: want names and values, got {variables!r}")
    if "PYTHONPATH" in variables:
        raise ConfigError(f"{key}.PYTHONPATH: is ours; give the folder in plugins")


# --------------------------------------------------------------------------------- plug-ins


def check_plugins(folders: Sequence[str]) -> None:
    """Refuse plug-in folders that hold nothing, or whose modules would stand in for others.

    Raises:
        ConfigError: Names folder, module and remedy.
    """
    seen: dict[str, Path] = {}
    for folder in folders:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise ConfigError(f"plugins: no folder {folder}; give one that holds your modules")
        modules = plugin_modules(root)
        if not modules:
            raise ConfigError(f"plugins: {folder} holds no Python module; give the folder that does")
        for name, path in modules.items():
            if name in PACKAGES:
                raise ConfigError(f"plugins: {path} would stand in for vlcot's own {name!r}; rename it")
            if name in seen:
                raise ConfigError(f"plugins: {path} and {seen[name]} are both called {name!r}; rename one")
            if where := _installed(name, path):
                raise ConfigError(
                    f"plugins: {path} would stand in for the module {name!r} ({where}); rename it"
                )
            seen[name] = path


def plugin_modules(root: Path) -> dict[str, Path]:
    """Return the modules of a plug-in folder by name: the folder itself where it is a package, else what is in it."""
    root = root.resolve()
    if (root / "__init__.py").is_file():
        return {root.name: root}
    found = {path.stem: path for path in sorted(root.glob("*.py")) if path.stem.isidentifier()}
    for path in sorted(root.iterdir()):
        if (
            path.is_dir()
            and path.name.isidentifier()
            and path.name != "__pycache__"
            and any(path.rglob("*.py"))
        ):
            found[path.name] = path
    return found


def _installed(name: str, path: Path) -> str:
    """Say where another module of that name is, or return ''."""
    if name in sys.stdlib_module_names:
        return "Python's own"
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    places = [spec.origin or "", *(spec.submodule_search_locations or [])]
    others = [place for place in places if place and not Path(place).resolve().is_relative_to(path)]
    return others[0] if others and len(others) == len([place for place in places if place]) else ""
