"""What placement and storage of a run must be; called by ``configs.checks.validate``."""

from __future__ import annotations

import re
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
SCHEMES = ("file", "mock", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
"""URIs that pyarrow opens."""


def check_placement(config: Config) -> None:
    """Refuse placements that cannot be.

    Raises:
        ConfigError: Names the key and the remedy.
    """
    for name, policy in config.policies.items():
        if policy.num_gpus > config.gpus_per_node:
            raise ConfigError(
                f"policies.{name}.num_gpus: a process of {policy.num_gpus:g} GPUs fits on no machine of "
                f"gpus_per_node={config.gpus_per_node}; lower it, or raise gpus_per_node"
            )
    for name, reward in config.rewards.items():
        if reward.num_gpus > config.gpus_per_node:
            raise ConfigError(
                f"rewards.{name}.num_gpus: a process of {reward.num_gpus:g} GPUs fits on no machine of "
                f"gpus_per_node={config.gpus_per_node}; lower it, or raise gpus_per_node"
            )
    if config.colocate:
        _check_colocation(config)
    _check_storage(config.storage_path)


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


def _check_storage(uri: str) -> None:
    found = _SCHEME.fullmatch(uri)
    if found is None:
        if uri and not Path(uri).expanduser().is_absolute():
            raise ConfigError(
                f"storage_path: {uri!r} is relative; give a whole path or a URI such as s3://bucket/runs"
            )
        return
    if found[1] not in SCHEMES:
        raise ConfigError(f"storage_path: no such scheme {found[1]}://; known are {', '.join(SCHEMES)}")
    if not found[2].strip("/"):
        raise ConfigError(f"storage_path: {uri!r} names no folder; add one, e.g. {found[1]}://bucket/runs")
