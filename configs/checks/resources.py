"""Checks of what a run runs on: placement on machines, storage, trackers, and folders of plug-ins."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs import PACKAGES
from configs.derive import worker_processes
from configs.errors import ConfigError
from configs.fields import TARGET
from configs.schema import Config, PolicyConfig
from configs.suggest import suggest

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
_ADDRESS = re.compile(r"(?:ray://)?(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+):([0-9]{1,5})")
SCHEMES = ("file", "mock", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
"""URIs that pyarrow opens."""


def check_placement(config: Config) -> None:
    """Refuse placements that cannot be.

    Raises:
        ConfigError: Names the key and the remedy.
    """
    num_gpus = {f"policies.{name}": policy.num_gpus for name, policy in config.policies.items()}
    num_gpus |= {
        f"policies.{name}.rollout.tensor_parallel times policies.{name}": size * policy.num_gpus
        for name, policy in config.policies.items()
        if (size := worker_processes(policy)) > 1
    }
    num_gpus |= {f"rewards.{name}": reward.num_gpus for name, reward in config.rewards.items()}
    for key, wanted in num_gpus.items():
        if wanted > 1 and wanted % 1:
            raise ConfigError(f"{key}.num_gpus: above 1 want a whole number, got {wanted}")
        if wanted > config.gpus_per_node:
            raise ConfigError(
                f"{key}.num_gpus: a process of {wanted:g} GPUs fits on no machine of "
                f"gpus_per_node={config.gpus_per_node}; lower it, or raise gpus_per_node"
            )
    for name, policy in config.policies.items():
        if worker_processes(policy) > 1:
            _check_tensor_parallel(f"policies.{name}", policy, config)
    if config.colocate:
        _check_colocation(config)
    _check_storage(config.storage_path)
    if config.ray_address:
        host_of(config.ray_address)


def _check_tensor_parallel(key: str, policy: PolicyConfig, config: Config) -> None:
    """The processes of a worker each want a GPU of their own, and only one of them can be given a GPU's memory."""
    if config.colocate:
        raise ConfigError(
            f"{key}.rollout.tensor_parallel: a worker of several GPUs cannot take turns with a learner rank of one; "
            "set colocate=false, or tensor_parallel=1"
        )
    if policy.rollout.transport in ("ipc", "nccl"):
        raise ConfigError(
            f"{key}.rollout.tensor_parallel: {policy.rollout.transport} gives weights to one GPU, and its workers "
            "have several; use object_store or gloo"
        )
    if policy.num_gpus not in (0, 1):
        raise ConfigError(
            f"{key}.rollout.tensor_parallel: each of its processes wants one GPU, and {key}.num_gpus is "
            f"{policy.num_gpus:g}; set it to 1"
        )


def _check_colocation(config: Config) -> None:
    if config.max_staleness:
        raise ConfigError(
            f"colocate: rollout and learner take turns, so groups cannot be sampled ahead "
            f"(max_staleness={config.max_staleness}); set max_staleness=0 or colocate=false"
        )
    for name, policy in config.policies.items():
        key = f"policies.{name}"
        if not policy.num_gpus:
            raise ConfigError(
                f"colocate: {key} runs on the CPU, where nothing is freed by taking turns; "
                f"set {key}.num_gpus above 0 or colocate=false"
            )
        if policy.learner.num_ranks != policy.rollout.num_workers:
            raise ConfigError(
                f"colocate: {key} pairs each learner rank with a rollout worker; set num_ranks "
                f"({policy.learner.num_ranks}) equal to num_rollout_workers ({policy.rollout.num_workers})"
            )


def host_of(address: str) -> tuple[str, int] | None:
    """Return host and port of a Ray address; None for ``auto``, which Ray looks up.

    Raises:
        ConfigError: If it is none.
    """
    if address == "auto":
        return None
    parts = _ADDRESS.fullmatch(address)
    if parts is None or not 0 < int(parts[2]) < 1 << 16 or not _may_be_host(parts[1]):
        raise ConfigError(f"ray_address: want host:port, ray://host:port or auto, got {address!r}")
    return parts[1].strip("[]"), int(parts[2])


def _may_be_host(name: str) -> bool:
    try:
        return bool(name.encode("idna"))
    except UnicodeError:  # a label of more than 63 letters, or none
        return False


def _check_storage(uri: str) -> None:
    parts = _SCHEME.fullmatch(uri)
    if parts is None:
        if uri and not Path(uri).is_absolute():
            raise ConfigError(
                f"storage_path: {uri!r} is relative; give a whole path or a URI such as s3://bucket/runs"
            )
        return
    if parts[1] not in SCHEMES:
        raise ConfigError(f"storage_path: no such scheme {parts[1]}://; known are {', '.join(SCHEMES)}")
    if not parts[2].strip("/"):
        raise ConfigError(f"storage_path: {uri!r} names no folder; add one, e.g. {parts[1]}://bucket/runs")


# --------------------------------------------------------------------------------- trackers


KNOWN: Mapping[str, tuple[Sequence[str], str]] = {
    "tensorboard": (("tensorboard",), "tensorboard"),
    "wandb": (("wandb",), "wandb"),
    "mlflow": (("mlflow", "sqlalchemy", "alembic"), "'mlflow-skinny>=3' sqlalchemy alembic"),
}
"""Name -> modules that must be there, and what pip is to install where one is not."""


def check_trackers(trackers: Sequence[str]) -> None:
    """Refuse unknown names, double ones, and trackers whose package is not installed.

    Whether a class of the user's own is there and fits is found out by ``vlcot check`` and before the start.

    Raises:
        ConfigError: Names the entry and the remedy.
    """
    for index, name in enumerate(trackers):
        if name in trackers[:index]:
            raise ConfigError(f"trackers: {name!r} is there twice; take one out")
        if ":" in name:
            if not TARGET.fullmatch(name):
                raise ConfigError(f"trackers: want package.module:Class, got {name!r}")
        elif name in KNOWN:
            _check_installed(name)
        else:
            hint = suggest(name, KNOWN) or f"; known are {', '.join(KNOWN)}."
            raise ConfigError(f"trackers: no tracker {name!r}{hint} Your own is package.module:Class")


def _check_installed(name: str) -> None:
    modules, packages = KNOWN[name]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"trackers: {name!r} needs the module {module!r}, which is not installed; pip install {packages}"
            )


# --------------------------------------------------------------------------------- plug-ins


def check_plugins(folders: Sequence[str]) -> None:
    """Refuse plug-in folders that hold nothing, or whose modules would stand in for others.

    Raises:
        ConfigError: Names folder, module and remedy.
    """
    seen: dict[str, Path] = {}
    for folder in folders:
        root = Path(folder)
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
    modules = {path.stem: path for path in sorted(root.glob("*.py")) if path.stem.isidentifier()}
    for path in sorted(root.iterdir()):
        if (
            path.is_dir()
            and path.name.isidentifier()
            and path.name != "__pycache__"
            and any(path.rglob("*.py"))
        ):
            modules[path.name] = path
    return modules


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
