"""Learning-rate schedule: a policy's rate in each optimizer step, from the number of steps alone."""

from __future__ import annotations

import math

from configs.methods import Cosine, Linear
from configs.schema import LearnerConfig


def learning_rate(config: LearnerConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of an optimizer step.

    Args:
        config: Its ``learning_rate`` is the peak.
        step: Steps made before, from 0.
        num_steps: Steps of the whole run. A run that is resumed for longer has the schedule of the longer one.

    Returns:
        The rate; after ``num_steps`` it stays at its last value.

    Source:
        transformers' ``get_linear_schedule_with_warmup`` and ``get_cosine_with_min_lr_schedule_with_warmup``.
    Differs from the source:
        There the first step of a warm-up has rate 0 and trains nothing; here it has the first share.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return config.learning_rate * ((step + 1) / warmup)
    done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    match config.schedule:
        case Linear():
            return config.learning_rate * (1 - done)
        case Cosine(floor=floor):
            return config.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)
    return config.learning_rate
