"""Cold start of a unified policy: its picture tokenizer, then supervised chains over text and pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.distributed

from actors.coldstart.supervised_chains import learn_chains
from actors.coldstart.task import ColdstartTask, asked
from actors.coldstart.unified.chains import WholeChainWriter
from actors.coldstart.unified.codec_trainer import train_codec
from actors.policies.base import TrainablePolicy
from actors.policies.family import PICTURE_TOKENIZER
from actors.policies.token.checkpoint import local_directory
from actors.policies.token.tags import write_with_tags
from actors.policies.unified.codec import load_codec
from actors.policies.unified.codec_files import CODEC
from actors.policies.unified.small import build_unified, start_codes
from actors.policies.unified.small_codec import PatchCodec
from actors.policies.unified.vocabulary import load_unified_vocabulary
from actors.shared import deepspeed_engine as ds
from configs.derive import COLDSTART, token_policy
from configs.schema import UnifiedPolicyConfig
from rl.chain.grammar import ChainGrammar
from rl.chain.plan import make_plan
from rl.data.source import prompt_source

TEXTS = 200
"""Most prompts whose words a tokenizer is trained on."""
FIRST = "first"
"""Folder of the checkpoint that is trained, in the task's scratch."""
MAX_POSITIONS = 2048


def train_picture_tokenizer(task: ColdstartTask) -> None:
    """Make the picture tokenizer of a unified policy that is made from nothing.

    Raises:
        DataError: If the source of prompts has no true photographs.
    """
    policy = task.config.policies[task.policy]
    assert isinstance(policy, UnifiedPolicyConfig)
    train_codec(task, task.directory, num_steps=task.config.coldstart.codec_steps, stride=policy.stride_px)


def train_unified(task: ColdstartTask) -> None:
    """Train a unified policy on supervised chains, and write it in the Hugging Face layout, its codec beside it.

    Raises:
        ConfigError: If a checkpoint's stride is not the policy's.
        DataError: If the source of prompts knows no answers.
        DivergedError: If loss or gradient is not finite.
    """
    policy = task.config.policies[task.policy]
    assert isinstance(policy, UnifiedPolicyConfig)
    ds.join_process_group(torch.device("cuda" if policy.num_gpus > 0 else "cpu"))
    first = task.work / FIRST
    if task.rank == 0 and not first.exists():
        _write_first(task, policy, first)
    torch.distributed.barrier()
    config = task.config

    def writer_of(trained: TrainablePolicy) -> WholeChainWriter:
        del trained
        vocabulary = load_unified_vocabulary(first, tuple(config.chain), token_policy(policy).chat_options)
        grammar = ChainGrammar(config.chain, vocabulary.tags, writer=task.policy)
        return WholeChainWriter(
            chain=config.chain,
            plan=make_plan(grammar, vocabulary.pictures),
            vocabulary=vocabulary,
            codec=load_codec(first, torch.device("cpu")),
            seed=config.seed,
        )

    learn_chains(task, policy, first, writer_of)


def _write_first(task: ColdstartTask, policy: UnifiedPolicyConfig, directory: Path) -> None:
    """Write the checkpoint that is trained: a small model with its codec, or the named one with the chain's tags."""
    partial, config = directory.with_name(directory.name + ".partial"), task.config
    shutil.rmtree(partial, ignore_errors=True)
    if policy.source != COLDSTART:
        source = local_directory(Path(policy.source))
        shutil.copytree(source, partial)
        write_with_tags(source, partial, tuple(config.chain), policy.dtype)
        partial.rename(directory)
        return
    source_of_prompts = prompt_source(config)
    prompts = [source_of_prompts.train(index) for index in range(TEXTS)]
    answers = [source_of_prompts.answer(prompt, config.chain, config.seed) for prompt in prompts]
    texts = [
        *source_of_prompts.training_texts(),
        *asked(prompts),
        *(text for answer in answers for text in answer.texts.values()),
    ]
    made = task.made / PICTURE_TOKENIZER
    codec = PatchCodec.from_pretrained(made / CODEC)
    build_unified(
        partial,
        texts=texts,
        block_names=tuple(config.chain),
        num_codes=codec.num_codes,
        stride_px=policy.stride_px,
        max_positions=MAX_POSITIONS,
        seed=config.seed,
    )
    start_codes(partial, codec.codebook.weight.detach(), seed=config.seed)
    shutil.copytree(made / CODEC, partial / CODEC)
    partial.rename(directory)
