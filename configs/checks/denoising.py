"""What a configuration says about denoising steps, and whether it fits the policy and its pictures."""

from __future__ import annotations

from configs.errors import ConfigError
from configs.methods import Guard, RandomSteps, SlidingWindow
from configs.schema import Config, DenoisingPolicyConfig

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
