"""Supervised chains: a policy that writes tokens learns right answers, from a checkpoint, before GRPO.

It is trained as GRPO will train it (``LearnerModel``): its adapters, its ZeRO stage, its dtype. What is minimised is
the mean negative log-prob of what the policy would have to sample, by the policy's own forward pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed

from actors.coldstart.supervised import rows_of_rank
from actors.coldstart.task import TRAINING_OFFSET, ColdstartTask, asked
from actors.learner.micro_batches import inputs_on
from actors.learner.model import LearnerModel
from actors.learner.spec import LearnerSpec
from actors.policies.base import TrainablePolicy
from actors.policies.family import family_of
from actors.shared import deepspeed_engine as ds
from actors.shared.engine_checkpoint import LATEST
from configs.derive import COLDSTART, token_policy
from configs.methods import FullWeights
from configs.schema import Config, TokenLearner, TokenLoss, WriterConfig
from rl.advantage.batching import chunks_of, fill_runs
from rl.data.source import Answer, prompt_source
from rl.errors import DivergedError
from rl.seeding import derive_seed
from rl.types import Example, Prompt, TokenStream

FIRST = "first"
"""Folder of the checkpoint that is trained, in the task's scratch."""


class ExampleWriter(Protocol):
    """Turns prompts and right answers into what a learner takes."""

    def examples(self, answered: Sequence[tuple[Prompt, Answer]]) -> list[Example]:
        """Return a chain for each."""
        ...


def learner_spec(task: ColdstartTask, policy: WriterConfig, directory: Path) -> LearnerSpec:
    """Return the learner's settings without what belongs to GRPO alone.

    A model made from nothing has no adapters yet: there is nothing that they could adapt.
    """
    lora = FullWeights() if policy.source == COLDSTART else policy.learner.lora
    plain = replace(
        policy,
        learner=replace(policy.learner, ema_decay=0.0, lora=lora),
        loss=TokenLoss(),
        rollout=replace(policy.rollout, guidance_scale=1.0),
    )
    return LearnerSpec(
        policy_name=task.policy,
        family=family_of(task.policy, policy),
        config=plain,
        directory=directory,
        block_names=tuple(task.config.chain),
        bucket_bytes=task.config.bucket_mib << 20,
        num_optimizer_steps=task.config.coldstart.text_steps,
        rank=task.rank,
        world_size=task.world_size,
        seed=task.config.seed,
        deterministic=task.config.deterministic,
    )


def taught_texts(config: Config, num: int) -> list[str]:
    """Return what a tokenizer made from nothing must know: the source's texts, and those of the first prompts' chains.

    Raises:
        DataError: If the source of prompts knows no answers.
    """
    source = prompt_source(config)
    prompts = [source.train(index) for index in range(num)]
    answers = [source.answer(prompt, config.chain, config.seed) for prompt in prompts]
    return [*source.training_texts(), *asked(prompts), *(t for a in answers for t in a.texts.values())]


def learn_chains(
    task: ColdstartTask,
    policy: WriterConfig,
    *,
    write_first: Callable[[Path], None],
    writer_of: Callable[[Path, TrainablePolicy], ExampleWriter],
) -> None:
    """Take ``text_steps`` optimizer steps on supervised chains and write the policy.

    A job that was killed goes on from its newest checkpoint.

    Args:
        task: Of this worker.
        policy: What is trained.
        write_first: Writes the checkpoint that training begins with into a folder.
        writer_of: Makes what turns prompts and their right answers into chains, of that checkpoint and its policy.

    Raises:
        DataError: If the source of prompts knows no answers.
        DivergedError: If loss or gradient is not finite.
    """
    device = torch.device("cuda" if policy.num_gpus > 0 else "cpu")
    ds.join_process_group(device)
    first = task.work / FIRST
    if task.rank == 0 and not first.exists():
        partial = first.with_name(first.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        write_first(partial)
        partial.rename(first)
    torch.distributed.barrier()
    if task.config.coldstart.text_steps == 0:
        if task.rank == 0:
            shutil.copytree(first, task.directory)
        return
    model = LearnerModel(learner_spec(task, policy, first), device)
    _train(task, model, writer_of(first, model.policy), device)
    model.export(task.directory)


def _train(task: ColdstartTask, model: LearnerModel, writer: ExampleWriter, device: torch.device) -> None:
    start = task.config.coldstart
    schedule = task.spec(num_steps=start.text_steps, learning_rate=start.text_learning_rate)
    checkpoints = task.work / "checkpoints"
    newest = checkpoints / LATEST
    done = int(model.load(checkpoints, newest.read_text().strip())["done"]) if newest.exists() else 0
    batches = _batches(task, writer, first_step=done)
    while done < start.text_steps:
        loss = _backward(model, next(batches), task, device)
        norm = ds.step(model.engine, schedule.rate(done))
        if norm is None:
            raise DivergedError(
                f"cold start of {task.policy}, step {done}: loss or gradient is not finite; lower "
                f"coldstart.text_learning_rate (now {start.text_learning_rate:.3g})"
            )
        done += 1
        if done % schedule.report_every == 0 or done == start.text_steps:
            task.report(done, {"loss": loss, "grad_norm": norm})
        if done % schedule.save_every == 0 and done < start.text_steps:
            model.save(checkpoints, f"step-{done}", {"done": done})


def _backward(model: LearnerModel, rows: list[Example], task: ColdstartTask, device: torch.device) -> float:
    """Add a step's gradients, micro-batch by micro-batch; return the loss, nats a token."""
    num_actions = sum(int(row.segment.action_mask.sum()) for row in rows)
    total = 0.0
    for micro in _micro_batches(rows, token_policy(task.config.policies[task.policy]).learner, device):
        batch = model.policy.collate(micro)
        # The output matrix must be asked for equally often on all ranks.
        num_chunks = ds.largest(chunks_of(int(batch.action_mask.sum())), device)
        scores = model.scores(inputs_on(device, batch, num_chunks=num_chunks))
        loss = -scores.logprobs[batch.action_mask.to(device)].sum() / num_actions
        ds.backward(model.engine, loss)
        total += float(loss.detach())
    return total


def _micro_batches(rows: list[Example], learner: TokenLearner, device: torch.device) -> list[list[Example]]:
    """Cut a step's examples within ``micro_batch_size`` and ``max_tokens``: as many parts on every rank."""
    if not learner.max_tokens:
        size = learner.micro_batch_size
        return [rows[first : first + size] for first in range(0, len(rows), size)]
    ordered = sorted(rows, key=_length, reverse=True)
    runs = fill_runs([_length(row) for row in ordered], learner.micro_batch_size, learner.max_tokens)
    parts = [ordered[run] for run in runs]
    num = ds.largest(len(parts), device)
    while len(parts) < num:
        most = max(range(len(parts)), key=lambda index: len(parts[index]))
        half = len(parts[most]) // 2
        parts[most : most + 1] = [parts[most][:half], parts[most][half:]]
    return parts


def _length(example: Example) -> int:
    """Return the number of tokens, pictures expanded."""
    assert isinstance(example.segment, TokenStream)
    return len(example.segment.tokens)


def _batches(task: ColdstartTask, writer: ExampleWriter, *, first_step: int) -> Iterator[list[Example]]:
    """Yield this rank's examples of each step, without end, every prompt once before any comes again."""
    config, start, source = task.config, task.config.coldstart, prompt_source(task.config)
    shares = rows_of_rank(
        start.num_examples,
        batch_size=start.text_batch_size,
        generator=torch.Generator().manual_seed(derive_seed(config.seed, "supervised order")),
        rank=task.rank,
        world=task.world_size,
    )
    for rows in islice(shares, first_step, None):
        prompts = [source.train(TRAINING_OFFSET + index) for index in rows.tolist()]
        yield writer.examples([(p, source.answer(p, config.chain, config.seed)) for p in prompts])
