"""What a policy's loss settings must be together: methods that only one kind of policy can follow."""

from __future__ import annotations

from configs.errors import ConfigError
from configs.methods import DualClip, Guard
from configs.schema import Config, PolicyConfig


def check_losses(config: Config) -> None:
    """Check surrogate, KL and entropy bonus of every policy.

    Raises:
        ConfigError: For the first fault; names the key and what to do.
    """
    for name, policy in config.policies.items():
        _check_kind(f"policies.{name}", policy)
        _check_constants(f"policies.{name}", policy)


def _check_kind(key: str, policy: PolicyConfig) -> None:
    if policy.kind == "token":
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
