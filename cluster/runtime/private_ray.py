"""Private Ray: one of this machine and this run alone, of which nothing is left behind."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants

LOGICAL_CPUS = 16
"""Least CPUs a private Ray counts: our processes take turns on the real ones (``configs.planning.placement.SHARE``)."""


@contextmanager
def private_ray(runtime_env: Mapping[str, Any], store_bytes: int) -> Iterator[None]:
    """Run a Ray that listens at the loopback address only, and remove its folder at the end.

    Its token is made here and handed on in the environment of its processes, never in a file.

    Args:
        runtime_env: Of all workers.
        store_bytes: Size of its object store.
    """
    with _environment():
        ray.init(
            address="local",  # without it Ray joins any cluster that runs on this machine
            num_cpus=max(LOGICAL_CPUS, os.cpu_count() or 1),
            object_store_memory=store_bytes,
            include_dashboard=False,
            runtime_env=dict(runtime_env),
            log_to_driver=False,
            configure_logging=False,
        )
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
