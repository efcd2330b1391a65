"""Tells what a checkpoint directory holds, from its JSON alone: nothing heavy is imported or loaded."""

from __future__ import annotations

import json
from pathlib import Path

from rl.errors import ConfigError

ARCHITECTURES = {
    "token": ("config.json", "model_type", "qwen2_5_vl"),
    "denoising": ("model_index.json", "_class_name", "RestorationPipeline"),
}
"""By kind of policy: file, key and value of the checkpoints it can start from."""


def check_architecture(directory: Path, kind: str) -> None:
    """Refuse a checkpoint that a policy of this kind cannot be.

    Args:
        directory: Hugging Face or diffusers layout.
        kind: ``token`` or ``denoising``.

    Raises:
        ConfigError: If the file is missing or names another architecture.
    """
    file, key, wanted = ARCHITECTURES[kind]
    path = directory / file
    if not path.is_file():
        raise ConfigError(f"{directory}: no {file} in it; a {kind} policy starts from a {wanted} checkpoint")
    found = json.loads(path.read_text()).get(key)
    name = found[-1] if isinstance(found, list) else found
    if name != wanted:
        raise ConfigError(
            f"{directory} holds a {name} model; a {kind} policy starts from a {wanted} checkpoint"
        )
