"""Settings of one learner rank, as it is told them when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.policies.family import PolicyFamily
from actors.shared.lora import with_targets
from configs.methods import Adapter
from configs.schema import PolicyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """What a rank is told at birth; the same for all ranks of a policy but ``rank``."""

    policy_name: str
    family: PolicyFamily
    """Names the ``TrainablePolicy`` and the layers to adapt."""
    config: PolicyConfig
    directory: Path
    """Starting weights, also those of the frozen reference."""
    block_names: tuple[str, ...]
    """The chain's blocks in order."""
    bucket_bytes: int
    """Size of a weight bucket; also bounds what ZeRO-3 gathers at once."""
    num_optimizer_steps: int
    """Of the whole run: where the learning rate's schedule ends."""
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    deterministic: bool = False
    deadline_s: float = 600.0
    """Longest wait for the receivers of a broadcast, seconds."""

    @property
    def lora(self) -> Adapter | None:
        """What is adapted, with the family's layers where the configuration names none; None trains all weights."""
        lora = self.config.learner.lora
        return with_targets(lora, self.family.lora_targets) if isinstance(lora, Adapter) else None
