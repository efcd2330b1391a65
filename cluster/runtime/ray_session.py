"""Ray session: a cluster joined, or a private one started, and left at the end."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

from actors.policies.model_size import find_models
from cluster.runtime.console import stage
from cluster.runtime.interrupts import INTERRUPTS
from cluster.runtime.placement_groups import check_nodes
from cluster.runtime.plugins import shipped_modules, use_plugins
from cluster.runtime.private_ray import private_ray
from cluster.runtime.probe import check_cluster
from cluster.runtime.ray_control import control_watched
from configs.errors import first_line
from configs.planning.placement import place
from configs.planning.plan import make_plan
from configs.schema import Config
from rl.errors import ConfigError

logger = logging.getLogger(__name__)


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
        check_nodes(place(config, learn=learn))
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


def check_machine(config: Config, store_bytes: int) -> None:
    """Refuse a machine on which the run would only fail later.

    Args:
        config: The run.
        store_bytes: Size of Ray's object store.

    Raises:
        ConfigError: If it has too few cores or too little shared memory.
    """
    cores = len(os.sched_getaffinity(0))
    for name, policy in config.policies.items():
        if policy.num_threads > cores:
            raise ConfigError(
                f"policies.{name}.num_threads={policy.num_threads}: this machine has {cores} cores"
            )
    shm = Path("/dev/shm")
    if shm.exists() and (free := shutil.disk_usage(shm).free) < store_bytes:
        raise ConfigError(f"/dev/shm has {free >> 20} MiB free, Ray's object store needs {store_bytes >> 20}")
