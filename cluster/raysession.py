"""Starting, joining and leaving Ray."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from configs.derive import num_gpus
from configs.schema import Config
from rl.errors import ConfigError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 1 << 30
"""Object store of a private Ray: pictures, latents and weight buckets of a small run."""
LOGICAL_CPUS = 16
"""Least CPUs a private Ray counts: our processes take turns on the real ones (see ``cluster.crew.SHARE``)."""


@contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Join the cluster of ``ray_address``, or run a private one on this machine; leave it at the end.

    Raises:
        ConfigError: If the machine has too few cores or too little shared memory.
    """
    # Ray would start one Python a core at once; every one of ours is started with its own settings.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    runtime_env = {"env_vars": env}
    if config.ray_address:
        ray.init(address=config.ray_address, runtime_env=runtime_env, log_to_driver=False)
    else:
        check_machine(config)
        ray.init(
            num_cpus=max(LOGICAL_CPUS, os.cpu_count() or 1),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            runtime_env=runtime_env,
            log_to_driver=False,
            configure_logging=False,
        )
    try:
        check_gpus(config)
        yield
    finally:
        ray.shutdown()


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
