"""Machine or cluster that a run is to be started on, looked at before anything is made or started there."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._common.utils import get_default_ray_temp_dir, get_ray_address_file
from ray._private.accelerators import get_accelerator_manager_for_resource

from actors.policies.model_size import find_models
from cluster.runtime.placement_groups import check_gpus
from configs.checks.resources import host_of
from configs.planning.placement import place
from configs.planning.plan import make_plan
from configs.schema import Config
from rl.errors import ConfigError

CONNECT_S = 10.0
"""Longest that a cluster may take to accept a connection."""
LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket."""
_SOCKET = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""What Ray adds to its temporary folder, at its longest."""


def check_start(config: Config) -> None:
    """Refuse a machine or cluster on which the run could not be started.

    Raises:
        ConfigError: Names the key and the remedy.
    """
    if ray.is_initialized():
        return  # a trial of a search, which was looked at when the search began
    if config.ray_address:
        check_address(config.ray_address)
    else:
        check_machine(config, make_plan(config, find_models(config)).store_bytes)
        check_gpus(place(config), [num_gpus()], "this machine")


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


def num_gpus() -> float:
    """Return the GPUs that a Ray of this machine would count."""
    manager = get_accelerator_manager_for_resource("GPU")
    visible = manager.get_current_process_visible_accelerator_ids()
    num = manager.get_current_node_num_accelerators()
    return float(num if visible is None else min(num, len(visible)))


def check_address(address: str) -> None:
    """Refuse what is no address of a Ray cluster, and one where nothing listens.

    Raises:
        ConfigError: With the remedy.
    """
    remedy = "start one (ray start --head), or leave it empty for a private one"
    if (place := host_of(address)) is None:
        file = Path(get_ray_address_file(None))
        found = os.environ.get("RAY_ADDRESS") or (file.read_text().strip() if file.is_file() else "")
        if not found or (place := host_of(found)) is None:
            raise ConfigError(f"ray_address: auto finds no Ray cluster on this machine; {remedy}")
    try:
        socket.create_connection(place, timeout=CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"ray_address: no Ray cluster at {address}: {error}; {remedy}") from error


@contextmanager
def temporary_folder() -> Iterator[str | None]:
    """Yield the folder for a private Ray's sockets and logs: None for its own choice, another where that is too long.

    Batch systems set ``TMPDIR`` to paths in which a socket has no room.

    Raises:
        ConfigError: If there is no other.
    """
    chosen = get_default_ray_temp_dir()
    if len(os.fsencode(chosen + _SOCKET)) <= LONGEST_SOCKET:
        yield None
        return
    try:
        folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    except OSError as error:
        raise ConfigError(
            f"TMPDIR: sockets of Ray have no room in {chosen}, and /tmp cannot be written ({error.strerror}); set "
            f"RAY_TMPDIR to a folder of at most {LONGEST_SOCKET - len(_SOCKET) - len('/ray')} characters"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
