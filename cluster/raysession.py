"""Starting, joining and leaving Ray."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.calls import Call, gather
from cluster.plugins import shipped_modules, use_plugins
from cluster.progress import stage
from configs.derive import num_gpus
from configs.schema import Config
from rl.errors import ConfigError, ImportOriginError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 1 << 30
"""Object store of a private Ray: pictures, latents and weight buckets of a small run."""
MARKS = {
    "configs": "schema.py",
    "rl": "loop.py",
    "rewards": "contract.py",
    "actors": "learner.py",
    "cluster": "raysession.py",
}
"""A file of each package by which ours is known."""
LOGICAL_CPUS = 16
"""Least CPUs a private Ray counts: our processes take turns on the real ones (see ``cluster.crew.SHARE``)."""


@contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Join the cluster of ``ray_address``, or run a private one on this machine; leave it at the end.

    A run that is a trial of a search is in a cluster already, which was checked when the search began: it stays.

    Raises:
        ConfigError: If the machine has too few cores or too little shared memory.
    """
    if ray.is_initialized():
        yield
        return
    # Ray would start one Python a core at once; every one of ours is started with its own settings.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    env: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}}
    if config.plugins:
        use_plugins(config.plugins)
        env["py_modules"] = shipped_modules(config.plugins)
    if not config.ray_address:
        check_machine(config)
    with stage("start Ray"):
        _start(config.ray_address, env)
    try:
        check_gpus(config)
        check_imports(deadline_s=config.deadline_s)
        yield
    finally:
        ray.shutdown()


def _start(address: str, runtime_env: dict[str, Any]) -> None:
    """Join the cluster at ``address``; start a private one where that is empty."""
    if address:
        ray.init(address=address, runtime_env=runtime_env, log_to_driver=False)
        return
    ray.init(
        num_cpus=max(LOGICAL_CPUS, os.cpu_count() or 1),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        runtime_env=runtime_env,
        log_to_driver=False,
        configure_logging=False,
    )


def check_gpus(config: Config) -> None:
    """Refuse a cluster on which some actors would wait for a GPU for ever.

    Raises:
        ConfigError: If the cluster has fewer GPUs than the run reserves.
    """
    wanted, there = num_gpus(config), float(ray.cluster_resources().get("GPU", 0.0))
    if wanted > there:
        raise ConfigError(
            f"policies.*.num_gpus and rewards.*.num_gpus add up to {wanted:g} GPUs, the cluster has {there:g}"
        )


def check_imports(*, deadline_s: float) -> None:
    """Refuse nodes on which a folder of the user's stands before a package of ours.

    Ray puts the driver's working directory first on its workers' path: a folder called ``rewards`` there is
    imported in the place of ours, on the workers only.

    Raises:
        ImportOriginError: Names the package, where it came from, and the remedy.
    """
    # By value, not by name: a worker that finds another ``cluster`` could not import the function.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    probe = ray.remote(num_cpus=0)(_origins)
    calls = []
    for node in ray.nodes():
        if node["Alive"]:
            where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            ref = probe.options(scheduling_strategy=where).remote(tuple(MARKS))
            calls.append(Call(name=f"node {node['NodeManagerAddress']}", method="imports", ref=ref))
    found = gather(calls, deadline_s=deadline_s)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    for call, origins in zip(calls, found, strict=True):
        for package, (origin, files) in origins.items():
            if MARKS[package] not in files:
                raise ImportOriginError(
                    f"{call.name}: package {package!r} is imported from {origin}, which is not vlcot's; "
                    "start vlcot from another directory, or rename that folder"
                )


def _origins(packages: tuple[str, ...]) -> dict[str, tuple[str, list[str]]]:
    """Return the folder each package is found in, and its files; runs on a node, where ours may not be."""
    import importlib.util
    import os

    found: dict[str, tuple[str, list[str]]] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        folder = next(iter(spec.submodule_search_locations or []), "") if spec else ""
        found[package] = (folder or "nowhere", os.listdir(folder) if folder else [])
    return found


def check_machine(config: Config) -> None:
    """Refuse a machine on which the run would only fail later."""
    cores = len(os.sched_getaffinity(0))
    for name, policy in config.policies.items():
        if policy.num_threads > cores:
            raise ConfigError(
                f"policies.{name}.num_threads={policy.num_threads}: this machine has {cores} cores"
            )
    shm = Path("/dev/shm")
    if shm.exists() and (free := shutil.disk_usage(shm).free) < OBJECT_STORE_BYTES:
        raise ConfigError(
            f"/dev/shm has {free >> 20} MiB free, Ray's object store needs {OBJECT_STORE_BYTES >> 20}"
        )
