"""Checks of policies: their losses, denoising steps, adapters, the way of their weights, and where they start."""

from __future__ import annotations

import re
from pathlib import Path

from configs.derive import COLDSTART
from configs.errors import ConfigError
from configs.fields import TAG
from configs.methods import Adapter, DualClip, Guard, RandomSteps, SlidingWindow
from configs.schema import Config, DenoisingPolicyConfig, PolicyConfig, WriterConfig

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_policies(config: Config) -> None:
    """Raise ``ConfigError`` for the first policy that cannot be named, used, found or placed."""
    used = {block.policy for block in config.chain.values()}
    for name, policy in config.policies.items():
        key = f"policies.{name}"
        if not TAG.fullmatch(name):
            raise ConfigError(f"{key}: no usable name; use at most 64 lower-case letters, digits and '_'")
        if name not in used:
            raise ConfigError(f"{key}: writes no block; take it out, or name it in chain.<block>.policy")
        if not policy.source:
            raise ConfigError(f"{key}.source: is empty; give a checkpoint folder or {COLDSTART!r}")


def check_source(name: str, policy: PolicyConfig) -> None:
    """Raise ``ConfigError`` where a policy's checkpoint is not there."""
    source = Path(policy.source)
    if policy.source == COLDSTART or source.is_dir() or HUB_ID.fullmatch(policy.source):
        return
    raise ConfigError(
        f"policies.{name}.source: no folder {policy.source}; give a checkpoint folder, a hub name "
        f"(organisation/model) or {COLDSTART!r}"
    )


def check_losses(config: Config) -> None:
    """Check surrogate, KL and entropy bonus of every policy.

    Raises:
        ConfigError: For the first fault; names the key and what to do.
    """
    for name, policy in config.policies.items():
        _check_kind(f"policies.{name}", policy)
        _check_constants(f"policies.{name}", policy)


def _check_kind(key: str, policy: PolicyConfig) -> None:
    if isinstance(policy, WriterConfig):
        if isinstance(policy.loss.surrogate, Guard):
            raise ConfigError(
                f"{key}.loss.surrogate: guard normalises denoising steps, and this policy writes tokens; use ppo"
            )
        if policy.loss.kl_estimator == "step_mean":
            raise ConfigError(
                f"{key}.loss.kl_estimator: step_mean is for denoising steps, and this policy writes tokens; use k3"
            )


def _check_constants(key: str, policy: PolicyConfig) -> None:
    method = policy.loss.surrogate
    if isinstance(method, DualClip) and method.bound <= 1:
        raise ConfigError(
            f"{key}.loss.surrogate.bound: want above 1, or the first update has no gradient where advantages are "
            f"negative; got {method.bound:g}, the paper has 3"
        )


# --------------------------------------------------------------------------------- denoising steps


PRESERVING = ("cps", "ddim")
"""Samplers that take a share of the noise anew: their level is at most 1, all of it."""


def check_denoising(config: Config) -> None:
    """Check every policy's sampler and trained steps.

    Raises:
        ConfigError: For the first fault; names the key and what to do.
    """
    for name, policy in config.policies.items():
        if not isinstance(policy, DenoisingPolicyConfig):
            continue
        key, rollout = f"policies.{name}.rollout", policy.rollout
        if rollout.sampler in PRESERVING and rollout.noise_level > 1:
            raise ConfigError(
                f"{key}.noise_level: want at most 1 with sampler {rollout.sampler}, which replaces that share of "
                f"the noise, got {rollout.noise_level:g}"
            )
        if isinstance(policy.loss.surrogate, Guard) and rollout.logprob_reduction != "mean":
            raise ConfigError(f"{key}.logprob_reduction: surrogate guard is made of means; take it out")
        _check_steps(name, policy, config)


def _check_steps(name: str, policy: DenoisingPolicyConfig, config: Config) -> None:
    """Every picture of the policy must have as many steps as are chosen in a row."""
    method = policy.rollout.trained_steps
    if isinstance(method, SlidingWindow):
        key, wanted = "size", method.size
    elif isinstance(method, RandomSteps):
        key, wanted = "count", method.count
    else:
        return
    for block_name, block in config.chain.items():
        room = block.num_steps - 1
        if block.policy == name and wanted > room:
            raise ConfigError(
                f"policies.{name}.rollout.trained_steps.{key}: want at most {room}, the steps of chain.{block_name} "
                f"less its last, got {wanted}; lower it, or raise chain.{block_name}.num_steps"
            )


# --------------------------------------------------------------------------------- weights


NEEDS_GPU = ("nccl", "ipc")
"""Transports that move GPU memory."""


def check_weights(config: Config) -> None:
    """Check adapters and transport of every policy.

    Raises:
        ConfigError: For the first fault; names the key and what to do.
    """
    for name, policy in config.policies.items():
        _check_transport(f"policies.{name}", policy)
        transport = policy.rollout.transport
        if config.colocate and transport in ("gloo", "nccl"):
            raise ConfigError(
                f"policies.{name}.rollout.transport: a {transport} group needs learners and rollout workers "
                "awake at once, and with colocate they take turns; use ipc or object_store"
            )
        if isinstance(policy.learner.lora, Adapter):
            _check_targets(f"policies.{name}.learner.lora", policy.learner.lora)


def _check_transport(key: str, policy: PolicyConfig) -> None:
    transport = policy.rollout.transport
    if transport in NEEDS_GPU and not policy.num_gpus:
        raise ConfigError(
            f"{key}.rollout.transport: {transport} moves GPU memory, and {key}.num_gpus is 0; use object_store "
            "or gloo, or give it GPUs"
        )
    if transport == "nccl" and policy.num_gpus % 1:
        raise ConfigError(
            f"{key}.rollout.transport: two members of an NCCL group cannot share a GPU, and {key}.num_gpus "
            f"is {policy.num_gpus:g}; use ipc or object_store"
        )


def _check_targets(key: str, lora: Adapter) -> None:
    for target in lora.targets:
        if not isinstance(target, str) or not target:
            raise ConfigError(
                f"{key}.targets: want names of linear layers, e.g. [q_proj, v_proj], got {target!r}"
            )
