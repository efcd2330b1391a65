"""The range of every number in the schema, checked in one walk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from configs.errors import ConfigError
from configs.schema import Config

_INF = math.inf
_TINY = 1e-12
_RANGES: Mapping[str, tuple[float, float]] = {
    "num_steps": (1, _INF),
    "prompts_per_step": (1, _INF),
    "group_size": (2, _INF),
    "updates_per_batch": (1, _INF),
    "advantage.clip": (0, _INF),
    "advantage.eps": (0, 1),
    "max_staleness": (0, _INF),
    "max_refills": (0, _INF),
    "max_invalid_frac": (0, 1),
    "alarm_window": (0, _INF),
    "save_every": (1, _INF),
    "keep_checkpoints": (1, _INF),
    "scale": (1, 16),
    "num_runners": (1, _INF),
    "deadline_s": (_TINY, _INF),
    "bucket_mib": (1, 4096),
    "gpus_per_node": (1, 1024),
    "gpu_gib": (1, 4096),
    "policies.*.rollout.num_workers": (1, _INF),
    "policies.*.learner.num_ranks": (1, _INF),
    "policies.*.num_threads": (1, 1024),
    "policies.*.num_gpus": (0, 64),
    "policies.*.learner.micro_batch_size": (1, _INF),
    "policies.*.learner.learning_rate": (_TINY, 1),
    "policies.*.learner.warmup_steps": (0, _INF),
    "policies.*.learner.weight_decay": (0, 1),
    "policies.*.learner.max_grad_norm": (_TINY, _INF),
    "policies.*.loss.surrogate.clip_low": (_TINY, 1),
    "policies.*.loss.surrogate.clip_high": (_TINY, 10),
    "policies.*.loss.surrogate.bound": (1, _INF),
    "policies.*.loss.correction.cap": (1, _INF),
    "policies.*.loss.correction.low": (_TINY, 1),
    "policies.*.loss.correction.high": (1, _INF),
    "policies.*.learner.ema_decay": (0, 1),
    "policies.*.learner.lora.rank": (1, 4096),
    "policies.*.learner.lora.alpha": (_TINY, 1e6),
    "policies.*.rollout.guidance_scale": (0, 100),
    "policies.*.loss.entropy_weight": (0, 100),
    "policies.*.rollout.trained_steps.share": (_TINY, 1),
    "policies.*.rollout.trained_steps.size": (1, _INF),
    "policies.*.rollout.trained_steps.every": (1, _INF),
    "policies.*.rollout.trained_steps.stride": (1, _INF),
    "policies.*.rollout.trained_steps.count": (1, _INF),
    "policies.*.rollout.trained_steps.start_within": (0, 1),
    "policies.*.loss.kl_weight": (0, 100),
    "policies.*.rollout.temperature": (_TINY, 10),
    "policies.*.rollout.noise_level": (_TINY, 10),
    "policies.*.rollout.canary_tolerance_nats": (_TINY, 10),
    "rewards.*.weight": (0, 1e6),
    "rewards.*.num_workers": (1, _INF),
    "rewards.*.num_cpus": (0, 1024),
    "rewards.*.num_gpus": (0, 64),
    "rewards.*.batch_size": (1, _INF),
    "rewards.*.deadline_s": (0, _INF),
    "data.holdout_photos": (0, _INF),
    "data.holdout_frac": (0, 0.9),
    "coldstart.num_examples": (1, _INF),
    "coldstart.num_workers": (1, 1024),
    "coldstart.text_steps": (0, _INF),
    "coldstart.text_batch_size": (1, _INF),
    "coldstart.text_learning_rate": (_TINY, 1),
    "coldstart.image_steps": (0, _INF),
    "coldstart.image_batch_size": (1, _INF),
    "coldstart.image_learning_rate": (_TINY, 1),
    "coldstart.expert_steps": (0, _INF),
    "eval.num_prompts": (1, _INF),
    "eval.every": (0, _INF),
}
"""Lowest and highest value of each number; ``_TINY`` stands for anything above 0."""


def check_ranges(config: Config) -> None:
    """Raise ``ConfigError`` for the first number that is not finite or out of its range."""
    for key, pattern, value in _numbers(config, "", ""):
        low, high = _RANGES.get(pattern, (-_INF, _INF))
        if math.isfinite(value) and low <= value <= high:
            continue
        bound = "above 0" if low == _TINY else f"at least {low:g}" if math.isfinite(low) else "finite"
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise ConfigError(f"{key}: want {bound}{upper}, got {value}")


def _numbers(value: Any, key: str, pattern: str) -> Iterator[tuple[str, str, float]]:
    """Yield (key, pattern, number) for every number; open ``options`` are left out."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _numbers(getattr(value, field.name), f"{key}.{field.name}", f"{pattern}.{field.name}")
    elif isinstance(value, dict):
        for name, entry in value.items():
            if is_dataclass(entry):
                yield from _numbers(entry, f"{key}.{name}", f"{pattern}.*")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key[1:], pattern[1:], value
