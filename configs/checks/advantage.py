"""What the keys of rewards, advantages and overlong blocks must be together; every fault is one line.

Whether a reward declares the numbers that a gate needs is known when its class is loaded (``rewards.load``).
"""

from __future__ import annotations

from configs.errors import ConfigError
from configs.schema import Config

_OVERLONG = "overlong"
"""Name of the pseudo-reward of ``overlong=punish``."""


def check_advantage(config: Config) -> None:
    """Raise ``ConfigError`` for the first method that cannot work with the rewards and the chain."""
    _check_gate(config)
    advantage = config.advantage
    if advantage.baseline == "batch" and advantage.scale == "group_std":
        raise ConfigError(
            "advantage.scale: group_std divides a distance from the batch by the spread of one group, which may "
            "be 0; with baseline=batch use batch_std or none"
        )
    _check_overlong(config)


def _check_gate(config: Config) -> None:
    gate = config.advantage.gate
    if not gate:
        return
    if gate not in config.rewards:
        known = ", ".join(config.rewards) or "none"
        raise ConfigError(f"advantage.gate: no reward {gate!r}; rewards are {known}")
    if not any(reward.weight > 0 for name, reward in config.rewards.items() if name != gate):
        raise ConfigError(
            f"advantage.gate: {gate} has no other reward with a weight above 0 to hold back; take the gate out"
        )


def _check_overlong(config: Config) -> None:
    if config.overlong == "train":
        return
    if not any(block.kind == "text" for block in config.chain.values()):
        raise ConfigError(
            f"overlong: {config.overlong} is about text, and the chain has no text block; use train"
        )
    if config.overlong == "punish" and _OVERLONG in config.rewards:
        raise ConfigError(f"rewards.{_OVERLONG}: the name is taken by overlong=punish; give it another")
