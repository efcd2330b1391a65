"""What a configuration's values must be together; every fault is one line that names key and remedy.

No ML framework is loaded here, so a mistake costs a fraction of a second. Whether classes named by
``target`` exist, and whether the machine has the cores, is found out later, by ``vlcot check``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from configs.checks.advantage import check_advantage
from configs.checks.denoising import check_denoising
from configs.checks.judges import check_judges
from configs.checks.losses import check_losses
from configs.checks.placement import check_placement
from configs.checks.rewards import check_plugins, check_reward_actors
from configs.checks.trackers import check_trackers
from configs.checks.weights import check_weights
from configs.derive import COLDSTART, coldstart_directory
from configs.derive import derived as derived
from configs.errors import ConfigError
from configs.schema import BlockConfig, Config, Photographs, PolicyConfig

PIXEL_STEP = 16
"""Edges of pictures are multiples of this: what autoencoders and vision towers divide by."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TAG = re.compile(r"[a-z][a-z0-9_]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_RESERVED = frozenset({"degraded", "truth"})


def validate(config: Config, *, paths: bool = True) -> None:
    """Check everything that can be known before a framework is loaded.

    Args:
        config: What ``configs.load.load_config`` returned.
        paths: Also look at the file system: photographs, checkpoints, and where runs are written.

    Raises:
        ConfigError: For the first fault; names the key, what it wants, and what to do.
    """
    _check_name(config)
    _check_chain(config)
    _check_sizes(config)
    _check_policies(config)
    check_losses(config)
    check_denoising(config)
    check_weights(config)
    _check_batches(config)
    _check_rewards(config)
    check_advantage(config)
    check_reward_actors(config, paths=paths)
    check_placement(config)
    _check_data(config)
    _check_coldstart(config)
    _check_eval(config)
    check_judges(config)
    check_trackers(config.trackers)
    if paths:
        check_plugins(config.plugins)
        _check_paths(config)


def _check_name(config: Config) -> None:
    if not _NAME.fullmatch(config.name):
        raise ConfigError(
            f"name: {config.name!r} is no plain folder name; use letters, digits, '.', '_' and '-', "
            "and output_dir for the folder"
        )
    if not config.output_dir:
        raise ConfigError("output_dir: is empty; give a folder, '.' for this one")


# --------------------------------------------------------------------------------- chain


def _check_chain(config: Config) -> None:
    if not config.chain:
        raise ConfigError("chain: has no block; add at least one, as configs/demo.yaml does")
    for name, block in config.chain.items():
        key = f"chain.{name}"
        if not _TAG.fullmatch(name) or name in _RESERVED:
            raise ConfigError(f"{key}: no usable tag; use lower-case letters, digits and '_', not {name!r}")
        policy = config.policies.get(block.policy)
        if policy is None:
            known = ", ".join(config.policies) or "none"
            raise ConfigError(f"{key}.policy: no policy {block.policy!r}; policies are {known}")
        fitting = "token" if block.kind == "text" else "denoising"
        if policy.kind != fitting:
            raise ConfigError(
                f"{key}.policy: {block.kind} is written by a {fitting} policy, "
                f"but policies.{block.policy}.kind is {policy.kind}"
            )
        _check_limits(key, block)


def _check_limits(key: str, block: BlockConfig) -> None:
    if block.kind == "text":
        if block.max_tokens < 8:
            raise ConfigError(
                f"{key}.max_tokens: want at least 8 (its two tags count), got {block.max_tokens}"
            )
        foreign = {"size_px": block.size_px, "num_steps": block.num_steps}
    else:
        if block.num_steps < 2:
            raise ConfigError(
                f"{key}.num_steps: want at least 2 (the last step is not trained), got {block.num_steps}"
            )
        if block.size_px < PIXEL_STEP or block.size_px % PIXEL_STEP:
            raise ConfigError(f"{key}.size_px: want a multiple of {PIXEL_STEP}, got {block.size_px}")
        foreign = {"max_tokens": block.max_tokens}
    for name, value in foreign.items():
        if value:
            raise ConfigError(f"{key}.{name}: has no meaning in a {block.kind} block; take it out")


def _check_sizes(config: Config) -> None:
    images = [(name, block.size_px) for name, block in config.chain.items() if block.kind == "image"]
    if not images:
        return
    last, final_px = images[-1]
    for (before, small), (name, large) in pairwise(images):
        if small >= large:
            raise ConfigError(f"chain.{name}.size_px: want more than chain.{before}'s {small}, got {large}")
    for name, size_px in images:
        if final_px % size_px:
            raise ConfigError(
                f"chain.{name}.size_px: want a divisor of chain.{last}'s {final_px}, got {size_px}"
            )
    if isinstance(config.data, Photographs) and final_px % config.scale:
        raise ConfigError(f"scale: want a divisor of chain.{last}.size_px {final_px}, got {config.scale}")


# --------------------------------------------------------------------------------- policies, batches


def _check_policies(config: Config) -> None:
    used = {block.policy for block in config.chain.values()}
    for name, policy in config.policies.items():
        key = f"policies.{name}"
        if not _TAG.fullmatch(name):
            raise ConfigError(f"{key}: no usable name; use lower-case letters, digits and '_'")
        if name not in used:
            raise ConfigError(f"{key}: writes no block; take it out, or name it in chain.<block>.policy")
        if not policy.source:
            raise ConfigError(f"{key}.source: is empty; give a checkpoint folder or {COLDSTART!r}")
        if policy.num_gpus > 1 and policy.num_gpus % 1:
            raise ConfigError(f"{key}.num_gpus: above 1 want a whole number, got {policy.num_gpus}")


def _check_batches(config: Config) -> None:
    if config.prompts_per_step < config.updates_per_batch:
        raise ConfigError(
            f"updates_per_batch: a batch is split by group, so at most prompts_per_step "
            f"({config.prompts_per_step}), got {config.updates_per_batch}"
        )
    chains = config.prompts_per_step // config.updates_per_batch * config.group_size
    for name, policy in config.policies.items():
        if chains < policy.learner.num_ranks:
            raise ConfigError(
                f"policies.{name}.learner.num_ranks: {policy.learner.num_ranks} ranks for {chains} chains an "
                "optimizer step leave some idle; lower it, or raise prompts_per_step"
            )


# --------------------------------------------------------------------------------- rewards


def _check_rewards(config: Config) -> None:
    if not any(reward.weight > 0 for reward in config.rewards.values()):
        raise ConfigError("rewards: none has a weight above 0, so nothing can be learned; set one's weight")
    for name, reward in config.rewards.items():
        key = f"rewards.{name}"
        if not _TAG.fullmatch(name):
            raise ConfigError(f"{key}: no usable name; use lower-case letters, digits and '_'")
        if not _TARGET.fullmatch(reward.target):
            raise ConfigError(f"{key}.target: want package.module:Class, got {reward.target!r}")
        for block in reward.blocks:
            if block not in config.chain:
                raise ConfigError(
                    f"{key}.blocks: the chain has no block {block!r}; it has {', '.join(config.chain)}"
                )
        if reward.weight > 0 and reward.on_failure == "monitor_only":
            raise ConfigError(
                f"{key}.on_failure: monitor_only needs weight 0; a chain without its score cannot be trained"
            )


# --------------------------------------------------------------------------------- data, cold start


def _check_data(config: Config) -> None:
    data = config.data
    if not isinstance(data, Photographs):
        if not _TARGET.fullmatch(data.target):
            raise ConfigError(f"data.target: want package.module:Class, got {data.target!r}")
        return
    zoom = data.zoom
    if len(zoom) != 2 or not all(isinstance(edge, int | float) for edge in zoom):
        raise ConfigError(f"data.zoom: want two numbers [low, high], got {zoom}")
    if not (0 < zoom[0] <= zoom[1] < math.inf):
        raise ConfigError(f"data.zoom: want 0 < low <= high, got {zoom}")
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
    samplers = config.eval.samplers
    if not samplers or len(set(samplers)) < len(samplers):
        raise ConfigError(f"eval.samplers: want at least one, each once, got {samplers}")


# --------------------------------------------------------------------------------- paths


def _check_paths(config: Config) -> None:
    for name, policy in config.policies.items():
        _check_source(name, policy)
    if isinstance(config.data, Photographs):
        _check_photographs(config.data)
    _check_expert(config)
    for key, folder in (
        ("output_dir", Path(config.output_dir) / config.name),
        ("coldstart.directory", coldstart_directory(config)),
    ):
        _check_writable(key, folder)


def _check_source(name: str, policy: PolicyConfig) -> None:
    source = Path(policy.source).expanduser()
    if policy.source == COLDSTART or source.is_dir() or _HUB_ID.fullmatch(policy.source):
        return
    raise ConfigError(
        f"policies.{name}.source: no folder {policy.source}; give a checkpoint folder, a hub name "
        f"(organisation/model) or {COLDSTART!r}"
    )


def _check_expert(config: Config) -> None:
    """The word in a reward's options stands for the learned expert: one must be there, or be taught."""
    start = config.coldstart
    painters = [policy for policy in config.policies.values() if policy.kind == "denoising"]
    is_taught = start.expert_steps > 0 and any(policy.source == COLDSTART for policy in painters)
    is_there = Path(coldstart_directory(config), "expert", "expert.pth").is_file()
    if is_taught or is_there or not painters:
        return
    for name, reward in config.rewards.items():
        if _mentions(reward.options, COLDSTART):
            raise ConfigError(
                f"rewards.{name}.options: {COLDSTART!r} is the learned expert, and none is taught; set "
                f"coldstart.expert_steps above 0 and a denoising policy's source to {COLDSTART!r}, or give a "
                "weights file"
            )


def _mentions(value: object, word: str) -> bool:
    """Whether a nested mapping holds the word as a value."""
    return any(_mentions(v, word) for v in value.values()) if isinstance(value, Mapping) else value == word


def _check_photographs(data: Photographs) -> None:
    images = Path(data.images).expanduser()
    if data.images != "builtin" and not images.is_dir():
        raise ConfigError(f"data.images: no folder {data.images}; give a folder of photographs or 'builtin'")
    if data.pairs and not Path(data.pairs).expanduser().is_dir():
        raise ConfigError(
            f"data.pairs: no folder {data.pairs}; give one with LR and HR in it, or with LR alone"
        )


def _check_writable(key: str, folder: Path) -> None:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}: {folder} cannot be written ({existing} stands in the way); choose another")
