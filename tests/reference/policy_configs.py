"""Policies' configurations from keys alone: each is put into the section that has it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from configs.schema import DenoisingPolicyConfig, PolicyConfig, TokenPolicyConfig, UnifiedPolicyConfig

KINDS = {"token": TokenPolicyConfig, "unified": UnifiedPolicyConfig, "denoising": DenoisingPolicyConfig}


def policy_config(kind: str = "token", **keys: Any) -> PolicyConfig:
    """Return a policy's configuration; ``num_ranks=2`` is ``learner.num_ranks`` and so on."""
    policy = KINDS[kind]()
    sections = {name: getattr(policy, name) for name in ("learner", "rollout", "loss")}
    inner = {
        name: type(section)(**{f.name: keys.pop(f.name) for f in fields(section) if f.name in keys})
        for name, section in sections.items()
    }
    return KINDS[kind](**keys, **inner)
