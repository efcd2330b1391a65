"""What a configuration says about denoising steps, and whether it fits the policy and its pictures."""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import ConfigError
from configs.methods import Guard, RandomSteps, SlidingWindow
from configs.schema import Config, PolicyConfig

OF_DENOISING = (
    "sampler",
    "noise_level",
    "logprob_reduction",
    "trained_steps",
    "step_weighting",
    "shared_noise",
)
"""Keys without a meaning for a token policy."""
OF_TOKENS = ("temperature",)
"""Keys without a meaning for a denoising policy."""
PRESERVING = ("cps", "ddim")
"""Samplers that take a share of the noise anew: their level is at most 1, all of it."""

_DEFAULTS = PolicyConfig()


def check_denoising(config: Config) -> None:
    """Check every policy's sampler and trained steps.

    Raises:
        ConfigError: For the first fault; names the key and what to do.
    """
    for name, policy in config.policies.items():
        key = f"policies.{name}"
        if policy.kind == "token":
            _check_unset(key, policy, OF_DENOISING)
            continue
        _check_unset(key, policy, OF_TOKENS)
        if policy.sampler in PRESERVING and policy.noise_level > 1:
            raise ConfigError(
                f"{key}.noise_level: want at most 1 with sampler {policy.sampler}, which replaces that share of "
                f"the noise, got {policy.noise_level:g}"
            )
        if isinstance(policy.surrogate, Guard) and policy.logprob_reduction != "mean":
            raise ConfigError(f"{key}.logprob_reduction: surrogate guard is made of means; take it out")
        _check_steps(name, policy, config)


def _check_unset(key: str, policy: PolicyConfig, names: Sequence[str]) -> None:
    for name in names:
        if getattr(policy, name) != getattr(_DEFAULTS, name):
            raise ConfigError(f"{key}.{name}: has no meaning for a {policy.kind} policy; take it out")


def _check_steps(name: str, policy: PolicyConfig, config: Config) -> None:
    """Every picture of the policy must have as many steps as are chosen in a row."""
    method = policy.trained_steps
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
                f"policies.{name}.trained_steps.{key}: want at most {room}, the steps of chain.{block_name} less "
                f"its last, got {wanted}; lower it, or raise chain.{block_name}.num_steps"
            )
