"""Cold start task of the learned expert: variants of photographs, and the image policy's own restorations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.coldstart.restoration.expert_data import make_expert_dataset
from actors.coldstart.restoration.expert_trainer import fit_expert
from actors.coldstart.restoration.image_data import texts_so_far
from actors.coldstart.task import ColdstartTask, training_prompts
from actors.policies.family import family_of
from actors.rollout.worker import RolloutSpec, RolloutWorker
from rl.chain.painting import PaintCall
from rl.restoration.names import DEGRADED, degraded_of, truth_of
from rl.seeding import derive_seed
from rl.types import PREVIOUS, Pixels, Prompt, SamplerSpec

CONTENTS = 200
"""Most photographs the expert learns from; each gives dozens of variants."""
LEARNING_RATE = 2e-3
"""AdamW's peak."""
NOISE = (0.0, 0.5, 1.0, 1.5, 2.1)
"""Noise levels of the restorations that the expert sees, in units of Flow-GRPO's. Between them it learns what
sampling noise looks like; within one level nobody can tell better from worse without the truth. Whatever GRPO
samples with, they are painted alike, so that one cold start serves all samplers."""


def train_expert(task: ColdstartTask) -> None:
    """Fit the learned expert on variants of photographs and on the image policy's own outputs."""
    config = task.config
    num_contents = min(CONTENTS, config.coldstart.num_examples)
    prompts = training_prompts(config, config.coldstart.num_examples, num_contents)
    truths = [truth for p in prompts if (truth := truth_of(p)) is not None]
    restored = restorations(task, prompts)
    dataset = make_expert_dataset(truths, restored, seed=config.seed)
    fit_expert(
        dataset,
        task.spec(num_steps=config.coldstart.expert_steps, learning_rate=LEARNING_RATE),
        directory=task.directory,
        seed=config.seed,
        report=task.report,
    )


def restorations(task: ColdstartTask, prompts: Sequence[Prompt]) -> dict[str, list[Pixels]]:
    """Sample the cold-started image policy at several noise levels, a picture a prompt and level."""
    config, settings = task.config, task.config.policies[task.policy]
    family = family_of(task.policy, settings)
    worker: RolloutWorker = family.load("rollout")(
        RolloutSpec(
            directory=task.made / task.policy,
            config=settings,
            family=family,
            block_names=tuple(config.chain),
            seed=config.seed,
            deterministic=True,
        )
    )
    worker.setup()
    out = {
        f"noise{share:.2f}": asyncio.run(paint_all(worker, task, prompts, share * SamplerSpec().noise_level))
        for share in NOISE
    }
    worker.close()
    return out


async def paint_all(
    worker: RolloutWorker, task: ColdstartTask, prompts: Sequence[Prompt], level: float
) -> list[Pixels]:
    """Paint the image blocks of every prompt with its true texts and return the last pictures."""
    config = task.config
    painted: list[Pixels] = []
    images = [n for n, b in config.chain.items() if b.kind == "image" and b.policy == task.policy]
    for turn, name in enumerate(images):
        call = PaintCall[Pixels](config.chain)
        for index, prompt in enumerate(prompts):
            call.add(
                prompt.prompt_id,
                name,
                pictures={DEGRADED: degraded_of(prompt)} | ({PREVIOUS: painted[index]} if turn else {}),
                sampler=SamplerSpec(noise_level=level),
                text=texts_so_far(prompt, turn + 1)[-1],
                seed=derive_seed(config.seed, prompt.prompt_id, f"{level:.3f}", name),
            )
        replies, *parts = await worker.generate(call.requests, *call.pictures)
        painted = [block.picture for block in call.taken_apart(replies, parts)]
    return painted
