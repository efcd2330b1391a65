"""Settings of one learner rank, as it is told them when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.schema import PolicyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """What a rank is told at birth; the same for all ranks of a policy but ``rank``."""

    policy_name: str
    policy_target: str
    """``package.module:Class`` of a ``TrainablePolicy``."""
    config: PolicyConfig
    directory: Path
    """Starting weights, also those of the frozen reference."""
    block_names: tuple[str, ...]
    """The chain's blocks in order."""
    bucket_bytes: int
    """Size of a weight bucket; also bounds what ZeRO-3 gathers at once."""
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    deterministic: bool = False
    deadline_s: float = 600.0
    """Longest wait for the receivers of a broadcast, seconds."""
