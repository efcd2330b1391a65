"""Rollout workers as a run makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.policies.family import family_of
from actors.rollout.worker import RolloutSpec
from configs.schema import BlockConfig, PolicyConfig


def _block(name: str, config: PolicyConfig) -> BlockConfig:
    if config.kind == "token":
        return BlockConfig(kind="text", max_tokens=32)
    return BlockConfig(kind="image", policy="image", size_px=16 if name == "rough_image" else 32, num_steps=4)


def rollout_spec(
    directory: Path,
    config: PolicyConfig,
    block_names: Sequence[str],
    *,
    seed: int = 3,
    deterministic: bool = False,
) -> RolloutSpec:
    return RolloutSpec(
        directory=directory,
        config=config,
        family=family_of("policy", config),
        chain={name: _block(name, config) for name in block_names},
        seed=seed,
        deterministic=deterministic,
    )


def make_worker(directory: Path, config: PolicyConfig, block_names: Sequence[str], **changes: Any) -> Any:
    """A worker of the policy's family, set up."""
    spec = rollout_spec(directory, config, block_names, **changes)
    worker = spec.family.load("rollout")(spec)
    worker.setup()
    return worker
