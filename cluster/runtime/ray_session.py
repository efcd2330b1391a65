"""Ray session: a cluster joined, or a private Ray of this machine and run alone, of which nothing is left behind."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

from actors.policies.model_size import find_models
from cluster.runtime.console import stage
from cluster.runtime.hosts import alive_nodes
from cluster.runtime.interrupts import INTERRUPTS
from cluster.runtime.machine import check_machine, temporary_folder
from cluster.runtime.placement_groups import check_gpus
from cluster.runtime.plugins import shipped_modules, use_plugins
from cluster.runtime.probe import check_cluster
from cluster.runtime.ray_control import control_watched
from configs.errors import first_line
from configs.planning.placement import place
from configs.planning.plan import make_plan
from configs.schema import Config
from rl.errors import ConfigError, RayStartError

LOGICAL_CPUS = 16
"""Least CPUs a private Ray counts: our processes take turns on the real ones (``configs.planning.placement.SHARE``)."""


@contextmanager
def ray_session(config: Config, *, learn: bool = True) -> Iterator[None]:
    """Join the cluster of ``ray_address``, or run a private one on this machine; leave it at the end.

    A run that is a trial of a search is in a cluster already, which was checked when the search began: it stays.

    Args:
        config: The run.
        learn: Whether it will have learners.

    Raises:
        ConfigError: If a machine lacks what the plan needs, or a node cannot be used as it is.
        WorkerLostError: If Ray's control process ends meanwhile.
    """
    if ray.is_initialized():
        yield
        return
    plan = make_plan(config, find_models(config))
    # Ray would start one Python a core at once; every one of ours is started with its own settings.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    env: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}}
    if config.plugins:
        use_plugins(config.plugins)
        env["py_modules"] = shipped_modules(config.plugins)
    if not config.ray_address:
        check_machine(config, plan.store_bytes)
    with ExitStack() as stack:
        with stage("start Ray"):
            address = config.ray_address
            stack.enter_context(_joined(address, env) if address else private_ray(env, plan.store_bytes))
        INTERRUPTS.install_again()
        stack.enter_context(control_watched())
        there = [float(node["Resources"].get("GPU", 0.0)) for node in alive_nodes()]
        check_gpus(place(config, learn=learn), there, "the cluster")
        check_cluster(config, plan)
        yield


@contextmanager
def _joined(address: str, runtime_env: dict[str, Any]) -> Iterator[None]:
    """Join the cluster at ``address``, and leave it.

    Raises:
        ConfigError: If there is no cluster.
    """
    # Given an address, Ray shows no token unless RAY_AUTH_MODE says so, but `ray start` asks for one wherever a
    # private Ray has once left one (~/.ray/auth_token). A cluster that wants none takes one too.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        ray.init(address=address, runtime_env=runtime_env, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"ray_address: no Ray cluster at {address}: {first_line(error)}; start one "
            "(ray start --head), or leave it empty for a private one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def private_ray(runtime_env: Mapping[str, Any], store_bytes: int) -> Iterator[None]:
    """Run a Ray that listens at the loopback address only, and remove its folder at the end.

    Its token is made here and handed on in the environment of its processes, never in a file.

    Args:
        runtime_env: Of all workers.
        store_bytes: Size of its object store.

    Raises:
        RayStartError: If it does not come up.
    """
    with _environment(), temporary_folder() as temporary:
        try:
            ray.init(
                address="local",  # without it Ray joins any cluster that runs on this machine
                num_cpus=max(LOGICAL_CPUS, os.cpu_count() or 1),
                object_store_memory=store_bytes,
                include_dashboard=False,
                runtime_env=dict(runtime_env),
                log_to_driver=False,
                configure_logging=False,
                _temp_dir=temporary,
            )
        except Exception as error:  # Ray raises the bare class where its node is not up in time
            ray.shutdown()
            raise RayStartError(
                f"Ray did not start: {first_line(error)}; end what else keeps this machine busy, or free memory, and "
                "try again"
            ) from error
        folder = Path(ray._private.worker._global_node.get_session_dir_path())
        try:
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
            newest = folder.with_name("session_latest")
            if newest.is_symlink() and not newest.exists():
                newest.unlink(missing_ok=True)


@contextmanager
def _environment() -> Iterator[None]:
    """Set what Ray's processes inherit, and put it back as it was."""
    own = {
        # Ray's word for "never more than this machine": it takes 127.0.0.1 for the node's address, and whatever
        # listens then listens there.
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        # Set, Ray neither prints that it chose a mode nor leaves a token in the home folder.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    before = {name: os.environ.get(name) for name in own}
    may_have_others = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(own)
    ray_constants.ENABLE_RAY_CLUSTER = False
    _read_again()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = may_have_others
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Have Ray's core, which reads the environment once, read it again."""
    core: Any = _raylet  # compiled, and untyped
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()
