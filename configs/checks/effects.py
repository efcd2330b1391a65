"""Keys without an effect: what a configuration sets, and nothing of it reads.

They are said and not refused: a method or a shipped file may set what another layer makes idle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from configs.derive import COLDSTART, taught_policies
from configs.schema import (
    AdvantageConfig,
    Config,
    DenoisingPolicyConfig,
    LossConfig,
    PromptTable,
    UnifiedPolicyConfig,
)


def idle_keys(config: Config) -> dict[str, str]:
    """Return the keys that have another value than their default, and no effect in this run.

    Returns:
        Full key -> why, in reading order.
    """
    return {
        key: why
        for found in (_of_policies, _of_advantage, _of_data, _of_coldstart, _of_eval)
        for key, why in found(config)
    }


def _of_policies(config: Config) -> Iterator[tuple[str, str]]:
    for name, policy in config.policies.items():
        loss, default = policy.loss, LossConfig()
        if not loss.kl_weight and loss.kl_estimator != default.kl_estimator:
            yield f"policies.{name}.loss.kl_estimator", "loss.kl_weight is 0"
        if policy.learner.offload_optimizer and not policy.num_gpus:
            yield f"policies.{name}.learner.offload_optimizer", "without a GPU it is on the host anyway"


def _of_advantage(config: Config) -> Iterator[tuple[str, str]]:
    advantage, default = config.advantage, AdvantageConfig()
    of_batch = advantage.baseline == "batch" or advantage.scale == "batch_std" or advantage.whiten
    if advantage.over != default.over and not of_batch:
        yield "advantage.over", "nothing is taken over the batch (baseline, scale, whiten)"
    if advantage.eps != default.eps and advantage.scale == "none" and not advantage.whiten:
        yield "advantage.eps", "nothing is divided by a deviation (scale, whiten)"
    if advantage.credit == "chain":
        for name, reward in config.rewards.items():
            if reward.blocks:
                yield f"rewards.{name}.blocks", "advantage.credit is chain: all blocks earn every reward"


def _of_data(config: Config) -> Iterator[tuple[str, str]]:
    data = config.data
    if isinstance(data, PromptTable) and data.held_out and _changed(data, "holdout_frac"):
        yield "data.holdout_frac", "data.held_out names what is evaluated on"


def _of_coldstart(config: Config) -> Iterator[tuple[str, str]]:
    taught = [config.policies[name] for name in taught_policies(config)]
    made = [policy for policy in taught if policy.source == COLDSTART]
    wanted: dict[str, tuple[bool, str]] = {
        "text_": (any(p.kind != "denoising" for p in taught), "no policy is taught to write"),
        "image_": (
            any(isinstance(p, DenoisingPolicyConfig) for p in made),
            "no painter is made from nothing",
        ),
        "codec_": (
            any(isinstance(p, UnifiedPolicyConfig) for p in made),
            "no picture tokenizer is made from nothing",
        ),
        "expert_": (any(p.kind != "token" for p in made), "no painter is made from nothing"),
        "num_": (bool(taught), "nothing is made in a cold start"),
    }
    for one in fields(config.coldstart):
        for head, (is_used, why) in wanted.items():
            if one.name.startswith(head) and not is_used and _changed(config.coldstart, one.name):
                yield f"coldstart.{one.name}", why


def _of_eval(config: Config) -> Iterator[tuple[str, str]]:
    kinds = {block.kind for block in config.chain.values()}
    if config.eval.samples and "text" not in kinds:
        yield "eval.samples", "the chain has no text; eval.samplers=[deterministic,stochastic] draws pictures"
    if _changed(config.eval, "samplers") and "image" not in kinds:
        yield "eval.samplers", "the chain paints no picture; eval.samples draws text"


def _changed(section: Any, name: str) -> bool:
    """Whether a key of a section has another value than a section that nothing is said of."""
    return bool(getattr(section, name) != getattr(type(section)(), name))
