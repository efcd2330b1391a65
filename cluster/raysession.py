"""Starting, joining and leaving Ray."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from configs.schema import Config
from rl.errors import ConfigError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 1 << 30
"""Object store of a private Ray: pictures, latents and weight buckets of a small run."""


@contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Join the cluster of ``ray_address``, or run a private one on this machine; leave it at the end.

    Raises:
        ConfigError: If the machine has too few cores or too little shared memory.
    """
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    hook = "rl.torchvision_compat.ensure_torchvision"
    runtime_env = {"env_vars": env, "worker_process_setup_hook": hook}
    if config.ray_address:
        ray.init(address=config.ray_address, runtime_env=runtime_env, log_to_driver=False)
    else:
        check_machine(config)
        ray.init(
            num_cpus=max(2, os.cpu_count() or 1),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            runtime_env=runtime_env,
            log_to_driver=False,
            configure_logging=False,
        )
    try:
        yield
    finally:
        ray.shutdown()


def check_machine(config: Config) -> None:
    """Refuse a machine on which the run would only fail later."""
    cores = os.cpu_count() or 1
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
