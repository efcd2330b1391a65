"""Checks of a search: every fault is one line that names key and remedy, found before anything starts."""

from __future__ import annotations

import math

from configs.checks.validate import validate
from configs.derive import eval_metrics
from configs.errors import ConfigError, prefixed
from configs.load import digest
from configs.schema import Config
from configs.search import RANGES, Domain, SearchPlan, combinations

TOTAL = "total"
OURS = ("name", "output_dir", "resume", "ray_address", "plugins", "coldstart.directory")
"""Keys that the search sets itself, or that belong to all of it."""
YARDSTICK = ("num_steps", "seed", "scale", "data", "eval")
"""Keys (and what is below them) without which trials would not be compared on the same prompts after the same steps."""


def check_search(plan: SearchPlan) -> Config:
    """Check everything that can be known before a framework is loaded.

    Returns:
        The configuration as it stands in the file, validated.

    Raises:
        ConfigError: For the first fault; names the key, what it wants, and what to do.
    """
    base = plan.config()
    validate(base)
    _check_grace(plan, base)
    _check_metric(plan, base)
    if not plan.space:
        raise ConfigError(
            "search.space: is empty; say what is searched, "
            "e.g. policies.text.learner.learning_rate: {log_uniform: [1e-6, 1e-4]}"
        )
    for key, domain in plan.space.items():
        _check_key(key)
        _check_domain(f"search.space.{key}", domain)
        _check_values(plan, key, domain)
        _check_shared(plan, base, key, domain)
    return base


def starting_points(plan: SearchPlan) -> list[Config]:
    """Return a configuration for each cold start that some trial wants."""
    base = plan.config()
    domains = {key: d for key, d in plan.space.items() if d.kind not in RANGES}
    keys = [key for key, d in domains.items() if _changes_start(plan, base, key, d)]
    return [plan.config(values) for values in combinations({key: domains[key].values for key in keys})]


def _check_grace(plan: SearchPlan, base: Config) -> None:
    grace_steps = plan.settings.grace_steps
    if grace_steps and not base.eval.every:
        raise ConfigError(
            "search.grace_steps: trials are stopped where they are evaluated; set eval.every above 0, or take it out"
        )
    if grace_steps > base.num_steps:
        raise ConfigError(f"search.grace_steps: want at most num_steps ({base.num_steps}), got {grace_steps}")


def _check_metric(plan: SearchPlan, base: Config) -> None:
    metric, known = plan.settings.metric, [TOTAL, *base.rewards, *eval_metrics(base)]
    if metric not in known:
        raise ConfigError(f"search.metric: no held-out metric {metric!r}; there are {', '.join(known)}")
    weighed = [key for key in plan.space if key.startswith("rewards.") or key == "rewards"]
    if metric == TOTAL and any(key.endswith(".weight") for key in weighed):
        raise ConfigError(
            "search.metric: total is the sum with the very weights that are searched; name a reward or a metric"
        )


def _check_key(key: str) -> None:
    if key in OURS:
        raise ConfigError(f"search.space.{key}: is for all trials; take it out of the space")
    if key.split(".")[0] in YARDSTICK:
        raise ConfigError(f"search.space.{key}: trials could not be compared; take it out of the space")


def _check_domain(key: str, domain: Domain) -> None:
    values = domain.values
    if domain.kind not in RANGES:
        if not values or any(values.count(value) > 1 for value in values):
            raise ConfigError(f"{key}: want at least one value, each once, got {list(values)}")
        return
    numbers = [
        v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    ]
    if len(values) != 2 or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise ConfigError(f"{key}: want two numbers [low, high] with low < high, got {list(values)}")
    if domain.kind == "log_uniform" and numbers[0] <= 0:
        raise ConfigError(f"{key}: log_uniform wants a low end above 0, got {numbers[0]}")
    if domain.kind == "int" and not all(isinstance(number, int) for number in numbers):
        raise ConfigError(f"{key}: int wants whole numbers, got {list(values)}")


def _check_values(plan: SearchPlan, key: str, domain: Domain) -> None:
    """Every value alone, and both ends of a range, must make a valid run."""
    for value in domain.values:
        with prefixed("search.space: "):
            validate(plan.config({key: value}))


def _check_shared(plan: SearchPlan, base: Config, key: str, domain: Domain) -> None:
    changes = _changes_start(plan, base, key, domain)
    if changes and domain.kind in RANGES:
        raise ConfigError(
            f"search.space.{key}: every value has a cold start of its own, made before the trials; want choice or grid"
        )
    if changes and base.coldstart.directory:
        raise ConfigError(
            f"search.space.{key}: every value has a cold start of its own; leave coldstart.directory empty"
        )
    if plan.settings.share_rewards and (changes or key.split(".")[0] in ("rewards", "deterministic")):
        raise ConfigError(
            f"search.share_rewards: trials with another {key} need rewards of their own; set it to false"
        )


def _changes_start(plan: SearchPlan, base: Config, key: str, domain: Domain) -> bool:
    return any(digest(plan.config({key: value})) != digest(base) for value in domain.values)
