"""Cold start of a language model: supervised chains from a checkpoint, or from nothing, before GRPO."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.distributed

from actors.coldstart.chains import ChainWriter
from actors.coldstart.restoration.text_trainer import train_text
from actors.coldstart.supervised_chains import learn_chains
from actors.coldstart.task import ColdstartTask, asked
from actors.policies.base import TrainablePolicy
from actors.policies.token.checkpoint import local_directory
from actors.policies.token.policy import TokenPolicy
from actors.policies.token.small import build_language_model
from actors.policies.token.tags import write_with_tags
from actors.policies.token.tokenizer import load_tokenizer
from actors.policies.token.vocabulary import load_vocabulary
from actors.shared import deepspeed_engine as ds
from configs.derive import COLDSTART, token_policy
from configs.schema import Config, Photographs, WriterConfig
from rl.chain.grammar import ChainGrammar
from rl.data.source import PromptSource, prompt_source

TEXTS = 2000
"""Most prompts whose words a tokenizer is trained on."""
FIRST = "first"
"""Folder of the checkpoint that is trained, in the task's scratch."""


def train_language_model(task: ColdstartTask) -> None:
    """Train a token policy on supervised chains, and write it in the Hugging Face layout.

    Raises:
        DataError: If the source of prompts knows no answers.
        DivergedError: If loss or gradient is not finite.
    """
    policy = token_policy(task.config.policies[task.policy])
    if policy.source == COLDSTART and isinstance(task.config.data, Photographs):
        train_text(task)
        return
    ds.join_process_group(torch.device("cuda" if policy.num_gpus > 0 else "cpu"))
    first, source = task.work / FIRST, prompt_source(task.config)
    if task.rank == 0 and not first.exists():
        _write_first(task.config, policy, source, first)
    torch.distributed.barrier()

    def writer_of(trained: TrainablePolicy) -> ChainWriter:
        assert isinstance(trained, TokenPolicy)
        vocabulary = load_vocabulary(first, tuple(task.config.chain), policy.chat_options)
        return ChainWriter(
            grammar=ChainGrammar(task.config.chain, vocabulary.tags),
            vocabulary=vocabulary,
            tokenizer=load_tokenizer(first),
            pictures=trained.pictures,
        )

    learn_chains(task, policy, first, writer_of)


def _write_first(config: Config, policy: WriterConfig, source: PromptSource, directory: Path) -> None:
    """Write the checkpoint that is trained: a small model, or the named one with the chain's tags."""
    partial, blocks = directory.with_name(directory.name + ".partial"), tuple(config.chain)
    shutil.rmtree(partial, ignore_errors=True)
    if policy.source == COLDSTART:
        prompts = [source.train(index) for index in range(TEXTS)]
        answers = [source.answer(prompt, config.chain, config.seed) for prompt in prompts]
        texts = [*source.training_texts(), *asked(prompts), *(t for a in answers for t in a.texts.values())]
        build_language_model(partial, texts=texts, block_names=blocks, seed=config.seed)
    else:
        write_with_tags(local_directory(Path(policy.source)), partial, blocks, policy.dtype)
    partial.rename(directory)
