"""The learning rate of every step, beside transformers' own schedules."""

from __future__ import annotations

import pytest
import torch

from actors.learner.schedule import learning_rate
from configs.methods import Constant, Cosine, Linear
from configs.schema import LearnerConfig
from rl.compat.torchvision import ensure_torchvision

PEAK = 3e-4
SCHEDULES = {
    "constant_with_warmup": (Constant(), {}),
    "linear": (Linear(), {}),
    "cosine": (Cosine(), {}),
    "cosine_with_min_lr": (Cosine(floor=0.1), {"min_lr_rate": 0.1}),
}


def rates_of_transformers(name, options, warmup, num_steps):
    ensure_torchvision()
    from transformers.optimization import get_scheduler

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=num_steps,
        scheduler_specific_kwargs=options,
    )
    rates = []
    for _ in range(num_steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "num_steps"), [(0, 1), (0, 12), (1, 5), (4, 12), (5, 6), (8, 5)])
def test_rates_are_those_of_transformers(name, warmup, num_steps):
    schedule, options = SCHEDULES[name]
    config = LearnerConfig(learning_rate=PEAK, warmup_steps=warmup, schedule=schedule)
    wanted = rates_of_transformers(name, options, warmup, num_steps)
    for step in range(num_steps):
        # Their warm-up begins with a step of rate 0, ours with its first share.
        want = wanted[step + 1] if step < warmup else wanted[step]
        assert learning_rate(config, step, num_steps) == pytest.approx(want, rel=1e-12), step


@pytest.mark.parametrize(
    ("schedule", "last"), [(Constant(), PEAK), (Linear(), 0), (Cosine(floor=0.2), 0.2 * PEAK)]
)
def test_after_the_last_step_the_rate_stays(schedule, last):
    config = LearnerConfig(learning_rate=PEAK, warmup_steps=2, schedule=schedule)
    assert [learning_rate(config, step, 10) for step in (10, 11, 50)] == pytest.approx([last] * 3)
