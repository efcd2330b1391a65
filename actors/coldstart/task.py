"""Task of one worker in one job of the cold start: what it is told, and the photographs it may use.

``cluster.run.coldstart`` runs a policy family's function of such a task under Ray Train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.coldstart.supervised import Report, SupervisedSpec
from configs.schema import Config
from rl.data.source import prompt_source
from rl.types import Prompt, TextPart


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdstartTask:
    """One worker's part in one job of the cold start."""

    config: Config
    policy: str
    """Name of the policy that is trained."""
    directory: Path
    """Where its checkpoint is written."""
    made: Path
    """The cold start: what other jobs have made already, by name."""
    work: Path
    """Scratch: the first checkpoint and what a killed job goes on from."""
    rank: int
    world_size: int
    report: Report
    note: Callable[[str], None]
    """Told what is done before the first step, e.g. ``pictures 2/5``."""

    def spec(self, *, num_steps: int, learning_rate: float) -> SupervisedSpec:
        """Return how long and how fast to learn."""
        return SupervisedSpec(
            num_steps=num_steps,
            learning_rate=learning_rate,
            report_every=max(1, num_steps // 50),
            checkpoint_dir=self.work / "checkpoints",
            save_every=max(1, num_steps // 4),
        )


TRAINING_OFFSET = 1_000_000_000
"""Index of the cold start's first prompt: far past GRPO's own."""


def asked(prompts: Sequence[Prompt]) -> list[str]:
    """Return everything that the messages of prompts say, each text once."""
    parts = (part for prompt in prompts for message in prompt.messages for part in message.parts)
    return list(dict.fromkeys(part.text for part in parts if isinstance(part, TextPart)))


def training_prompts(config: Config, first: int, num: int) -> list[Prompt]:
    """Make training prompts that GRPO does not use, where a source has as many."""
    source = prompt_source(config)
    return [source.train(TRAINING_OFFSET + first + i) for i in range(num)]
