"""Checks of a whole configuration, what its values must be together: a fault is one line with key and remedy.

No ML framework is loaded here, so a mistake costs a fraction of a second. Whether classes named by
``target`` exist, and whether the machine has the cores, is found out later, by ``vlcot check``.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from configs.checks.chain import check_batches, check_chain, check_sizes
from configs.checks.policies import (
    check_denoising,
    check_losses,
    check_policies,
    check_source,
    check_weights,
)
from configs.checks.resources import check_placement, check_plugins, check_trackers
from configs.checks.rewards import check_advantage, check_measures, check_reward_actors, check_rewards
from configs.derive import COLDSTART, coldstart_directory, mentions
from configs.errors import ConfigError
from configs.fields import TARGET
from configs.schema import Config, Photographs, PromptTable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


MOST_ZOOM = 1e4
"""Of a crop over what it is scaled down to."""


def validate(config: Config, *, paths: bool = True) -> None:
    """Check everything that can be known before a framework is loaded.

    Args:
        config: What ``configs.load.load_config`` returned.
        paths: Also look at the file system: photographs, checkpoints, and where runs are written.

    Raises:
        ConfigError: For the first fault; names the key, what it wants, and what to do.
    """
    _check_name(config)
    check_chain(config)
    check_sizes(config)
    check_policies(config)
    check_losses(config)
    check_denoising(config)
    check_weights(config)
    check_batches(config)
    check_rewards(config)
    check_advantage(config)
    check_reward_actors(config, paths=paths)
    check_placement(config)
    _check_data(config)
    _check_coldstart(config)
    _check_eval(config)
    check_measures(config)
    check_trackers(config.trackers)
    if paths:
        check_plugins(config.plugins)
        _check_paths(config)


def _check_name(config: Config) -> None:
    if not _NAME.fullmatch(config.name):
        raise ConfigError(
            f"name: {config.name!r} is no plain folder name; use at most 128 letters, digits, '.', '_' and '-', "
            "and output_dir for the folder"
        )
    if not config.output_dir:
        raise ConfigError("output_dir: is empty; give a folder, '.' for this one")


# --------------------------------------------------------------------------------- data, cold start


def _check_data(config: Config) -> None:
    data = config.data
    if isinstance(data, PromptTable):
        if not data.prompts:
            raise ConfigError("data.prompts: is empty; give a file, a folder or a hub name of prompts")
        return
    if not isinstance(data, Photographs):
        if not TARGET.fullmatch(data.target):
            raise ConfigError(f"data.target: want package.module:Class, got {data.target!r}")
        return
    zoom = data.zoom
    if len(zoom) != 2:
        raise ConfigError(f"data.zoom: want two numbers [low, high], got {zoom}")
    if not 1 <= zoom[0] <= zoom[1] <= MOST_ZOOM:
        raise ConfigError(f"data.zoom: want 1 <= low <= high <= {MOST_ZOOM:g}, got {zoom}")
    if not data.images:
        raise ConfigError("data.images: is empty; give a folder of photographs or 'builtin'")


def _check_coldstart(config: Config) -> None:
    start = config.coldstart
    sizes = {"text_batch_size": start.text_batch_size, "image_batch_size": start.image_batch_size}
    for key, size in sizes.items():
        if size % start.num_workers:
            raise ConfigError(
                f"coldstart.{key}: want a multiple of num_workers ({start.num_workers}), got {size}"
            )


def _check_eval(config: Config) -> None:
    samplers, metrics = config.eval.samplers, config.eval.metrics
    if not samplers or len(set(samplers)) < len(samplers):
        raise ConfigError(f"eval.samplers: want at least one, each once, got {samplers}")
    if twice := [name for index, name in enumerate(metrics) if name in metrics[:index]]:
        raise ConfigError(f"eval.metrics: {twice[0]} is there twice; take one out")


# --------------------------------------------------------------------------------- paths


def _check_paths(config: Config) -> None:
    for name, policy in config.policies.items():
        check_source(name, policy)
    if isinstance(config.data, Photographs):
        _check_photographs(config.data)
    _check_expert(config)
    for key, folder in (
        ("output_dir", Path(config.output_dir) / config.name),
        ("coldstart.directory", coldstart_directory(config)),
    ):
        _check_writable(key, folder)
    if (storage := config.storage_path.removeprefix("file://")).startswith("/"):
        _check_writable("storage_path", Path(storage))


def _check_expert(config: Config) -> None:
    """The word in a reward's options stands for the learned expert: one must be there, or be taught."""
    start = config.coldstart
    painters = [policy for policy in config.policies.values() if policy.kind != "token"]
    is_taught = start.expert_steps > 0 and any(policy.source == COLDSTART for policy in painters)
    is_there = Path(coldstart_directory(config), "expert", "expert.pth").is_file()
    if is_taught or is_there or not painters:
        return
    for name, reward in config.rewards.items():
        if mentions(reward.options, COLDSTART):
            raise ConfigError(
                f"rewards.{name}.options: {COLDSTART!r} is the learned expert, and none is taught; set "
                f"coldstart.expert_steps above 0 and a denoising or unified policy's source to {COLDSTART!r}, or give "
                "a weights file"
            )


def _check_photographs(data: Photographs) -> None:
    images = Path(data.images)
    if data.images != "builtin" and not images.is_dir():
        raise ConfigError(f"data.images: no folder {data.images}; give a folder of photographs or 'builtin'")
    if data.pairs and not Path(data.pairs).is_dir():
        raise ConfigError(
            f"data.pairs: no folder {data.pairs}; give one with LR and HR in it, or with LR alone"
        )


def _check_writable(key: str, folder: Path) -> None:
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        # Permissions do not tell all: of /proc, of a quota, of a file system that is mounted read-only.
        with tempfile.TemporaryDirectory(dir=existing, prefix=".vlcot-"):
            pass
    except OSError as error:
        reason = f"{existing}: {(error.strerror or str(error)).lower()}"
        raise ConfigError(f"{key}: {folder} cannot be written ({reason}); choose another") from error
