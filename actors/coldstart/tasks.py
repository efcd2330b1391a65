"""The cold start's jobs: what one worker does to teach the text policy, the image policy or the expert.

Plain functions of (rank, world size, report); ``cluster.run.coldstart`` runs them under Ray Train.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from actors.coldstart.expert_data import make_expert_dataset
from actors.coldstart.expert_teacher import fit_expert
from actors.coldstart.image_teacher import ImageTeacher, build_image_policy, texts_so_far
from actors.coldstart.image_teacher import batches as image_batches
from actors.coldstart.image_teacher import make_dataset as make_image_dataset
from actors.coldstart.supervised import SupervisedSpec, run_supervised
from actors.coldstart.text_data import batches as text_batches
from actors.coldstart.text_data import make_dataset as make_text_dataset
from actors.coldstart.text_teacher import HEAD_SHARE, TextTeacher
from actors.policies.token.qwen2_5_vl import build_text_policy
from actors.policies.token.tokenizer import load_vocabulary
from actors.rollout.image_worker import ImageRolloutWorker
from configs.derive import degraded_px
from configs.schema import Config
from rl.chain.grammar import ChainGrammar
from rl.chain.painting import PaintCall
from rl.data.source import prompt_source
from rl.restoration.names import DEGRADED, degraded_of, truth_of
from rl.seeding import derive_seed
from rl.types import PREVIOUS, Pixels, Prompt, SamplerSpec, TextPart

Report = Callable[[int, Mapping[str, float]], None]

HEAD_FRAC = 0.85
"""Share of the text steps that teach the vision tower alone: a tenth of a chain's cost each."""
EXPERT_CONTENTS = 200
"""Most photographs the expert learns from; each gives dozens of variants."""
EXPERT_LEARNING_RATE = 2e-3
"""AdamW's peak."""
EXPERT_NOISE = (0.0, 0.5, 1.0, 1.5, 2.1)
"""Noise levels of the restorations that the expert sees, in units of Flow-GRPO's. Between them it learns what
sampling noise looks like; within one level nobody can tell better from worse without the truth. Whatever GRPO
samples with, they are painted alike, so that one cold start serves all samplers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One worker's part of one job."""

    config: Config
    policy: str
    """Name of the policy that is taught."""
    directory: Path
    """Where its checkpoint is written."""
    made: Path
    """The cold start: what other jobs have made already, by name."""
    work: Path
    """Scratch: the first checkpoint and what a killed job goes on from."""
    rank: int
    world_size: int
    report: Report

    def spec(self, *, num_steps: int, learning_rate: float) -> SupervisedSpec:
        """Return how long and how fast to learn."""
        return SupervisedSpec(
            num_steps=num_steps,
            learning_rate=learning_rate,
            report_every=max(1, num_steps // 50),
            checkpoint_dir=self.work / "checkpoints",
            save_every=max(1, num_steps // 4),
        )


def training_prompts(config: Config, first: int, num: int) -> list[Prompt]:
    """Make training prompts that GRPO does not use: their indexes are far past its own."""
    source = prompt_source(config)
    return [source.train(1_000_000_000 + first + i) for i in range(num)]


def asked(prompts: Sequence[Prompt]) -> list[str]:
    """Return everything that the messages of prompts say, each text once."""
    parts = (part for prompt in prompts for message in prompt.messages for part in message.parts)
    return list(dict.fromkeys(part.text for part in parts if isinstance(part, TextPart)))


def teach_text(lesson: Lesson) -> None:
    """Teach the text policy to write true chains, and write it in the Hugging Face layout."""
    config, start = lesson.config, lesson.config.coldstart
    first = lesson.work / f"first-{lesson.rank}"
    prompts = training_prompts(config, 0, start.num_examples)
    build_text_policy(
        first,
        texts=[*prompt_source(config).training_texts(), *asked(prompts)],
        block_names=tuple(config.chain),
        degraded_px=degraded_px(config),
        seed=config.seed,
    )
    teacher = TextTeacher(first)
    vocabulary = load_vocabulary(first, tuple(config.chain))
    dataset = make_text_dataset(
        prompts,
        grammar=ChainGrammar(config.chain, vocabulary.tags),
        vocabulary=vocabulary,
        tokenizer=teacher.tokenizer,
        policy=teacher.policy,
        seed=config.seed,
    )
    head_steps = int(HEAD_SHARE * start.text_steps)
    for name, first_step, num_steps in (
        ("head", 0, head_steps),
        ("chains", head_steps, start.text_steps - head_steps),
    ):
        spec = lesson.spec(num_steps=num_steps, learning_rate=start.text_learning_rate)
        run_supervised(
            replace(spec, checkpoint_dir=lesson.work / f"checkpoints-{name}"),
            module=teacher,
            batches=text_batches(
                dataset,
                batch_size=start.text_batch_size,
                seed=derive_seed(config.seed, name),
                rank=lesson.rank,
                world=lesson.world_size,
                head_batches=num_steps if name == "head" else 0,
            ),
            report=partial(report_later, lesson.report, first_step),
        )
    if lesson.rank == 0:
        teacher.export(lesson.directory)


def report_later(report: Report, first_step: int, step: int, metrics: Mapping[str, float]) -> None:
    """Report a step of a later part, counted from the start of the whole."""
    report(first_step + step, metrics)


def teach_image(lesson: Lesson) -> None:
    """Teach the image policy to restore, and write it in the diffusers layout."""
    config, start = lesson.config, lesson.config.coldstart
    sizes = [b.size_px for b in config.chain.values() if b.kind == "image" and b.policy == lesson.policy]
    first = lesson.work / f"first-{lesson.rank}"
    build_image_policy(first, texts=prompt_source(config).training_texts(), sizes=sizes, seed=config.seed)
    teacher = ImageTeacher(first)
    prompts = training_prompts(config, 0, start.num_examples)
    dataset = make_image_dataset(prompts, sizes=sizes, tokenizer=teacher.tokenizer)
    run_supervised(
        lesson.spec(num_steps=start.image_steps, learning_rate=start.image_learning_rate),
        module=teacher,
        batches=image_batches(
            dataset,
            batch_size=start.image_batch_size,
            seed=config.seed,
            rank=lesson.rank,
            world=lesson.world_size,
        ),
        report=lesson.report,
    )
    if lesson.rank == 0:
        teacher.export(lesson.directory)


def teach_expert(lesson: Lesson) -> None:
    """Fit the learned expert on variants of photographs and on the image policy's own outputs."""
    config = lesson.config
    num_contents = min(EXPERT_CONTENTS, config.coldstart.num_examples)
    prompts = training_prompts(config, config.coldstart.num_examples, num_contents)
    truths = [truth for p in prompts if (truth := truth_of(p)) is not None]
    restored = restorations(lesson, prompts)
    dataset = make_expert_dataset(truths, restored, seed=config.seed)
    fit_expert(
        dataset,
        lesson.spec(num_steps=config.coldstart.expert_steps, learning_rate=EXPERT_LEARNING_RATE),
        directory=lesson.directory,
        seed=config.seed,
        report=lesson.report,
    )


def restorations(lesson: Lesson, prompts: Sequence[Prompt]) -> dict[str, list[Pixels]]:
    """Sample the cold-started image policy at several noise levels, a picture a prompt and level."""
    config, settings = lesson.config, lesson.config.policies[lesson.policy]
    worker = ImageRolloutWorker(
        directory=lesson.made / lesson.policy,
        config=settings,
        block_names=tuple(config.chain),
        seed=config.seed,
        deterministic=True,
    )
    worker.setup()
    out = {
        f"noise{share:.2f}": asyncio.run(
            paint_all(worker, lesson, prompts, share * SamplerSpec().noise_level)
        )
        for share in EXPERT_NOISE
    }
    worker.close()
    return out


async def paint_all(
    worker: ImageRolloutWorker, lesson: Lesson, prompts: Sequence[Prompt], level: float
) -> list[Pixels]:
    """Paint the image blocks of every prompt with its true texts and return the last pictures."""
    config = lesson.config
    painted: list[Pixels] = []
    images = [n for n, b in config.chain.items() if b.kind == "image" and b.policy == lesson.policy]
    for turn, name in enumerate(images):
        call = PaintCall[Pixels](config.chain)
        for index, prompt in enumerate(prompts):
            call.add(
                prompt.prompt_id,
                name,
                pictures={DEGRADED: degraded_of(prompt)} | ({PREVIOUS: painted[index]} if turn else {}),
                text=texts_so_far(prompt, turn + 1)[-1],
                sampler=SamplerSpec(noise_level=level),
                seed=derive_seed(config.seed, prompt.prompt_id, f"{level:.3f}", name),
            )
        replies, *parts = await worker.generate(call.requests, *call.pictures)
        painted = [block.picture for block in call.taken_apart(replies, parts)]
    return painted
