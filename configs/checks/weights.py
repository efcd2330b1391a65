"""What a policy's adapters and the way of its weights must be together with the rest of it."""

from __future__ import annotations

from configs.errors import ConfigError
from configs.methods import Adapter
from configs.schema import Config, PolicyConfig

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
