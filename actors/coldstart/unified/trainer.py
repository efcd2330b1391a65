"""Cold start of a unified policy: its picture tokenizer, then supervised chains over text and pictures."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from actors.coldstart.supervised_chains import learn_chains, taught_texts
from actors.coldstart.task import ColdstartTask
from actors.coldstart.unified.chains import WholeChainWriter
from actors.coldstart.unified.codec_trainer import train_codec
from actors.policies.base import TrainablePolicy
from actors.policies.family import PICTURE_TOKENIZER
from actors.policies.token.checkpoint import copy_beside_weights, local_directory
from actors.policies.token.tags import write_with_tags
from actors.policies.unified.codec import load_codec
from actors.policies.unified.codec_files import CODEC
from actors.policies.unified.small import build_unified, start_codes
from actors.policies.unified.small_codec import PatchCodec
from actors.policies.unified.vocabulary import load_unified_vocabulary
from configs.derive import COLDSTART, token_policy
from configs.schema import UnifiedPolicyConfig
from rl.chain.grammar import ChainGrammar
from rl.chain.plan import make_plan

TEXTS = 200
"""Most prompts whose words a tokenizer is trained on."""
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
        DataError: If the source of prompts knows no answers.
        DivergedError: If loss or gradient is not finite.
    """
    policy = task.config.policies[task.policy]
    assert isinstance(policy, UnifiedPolicyConfig)
    config = task.config

    def writer_of(first: Path, _: TrainablePolicy) -> WholeChainWriter:
        vocabulary = load_unified_vocabulary(first, tuple(config.chain), token_policy(policy).chat_options)
        grammar = ChainGrammar(config.chain, vocabulary.tags, writer=task.policy)
        return WholeChainWriter(
            chain=config.chain,
            plan=make_plan(grammar, vocabulary.pictures),
            vocabulary=vocabulary,
            codec=load_codec(first),
            seed=config.seed,
        )

    learn_chains(task, policy, write_first=partial(_write_first, task, policy), writer_of=writer_of)


def _write_first(task: ColdstartTask, policy: UnifiedPolicyConfig, directory: Path) -> None:
    """Write the checkpoint that is trained: a small model with its codec, or the named one with the chain's tags."""
    config = task.config
    if policy.source != COLDSTART:
        source = local_directory(Path(policy.source))
        copy_beside_weights(source, directory)
        write_with_tags(source, directory, tuple(config.chain), policy.dtype)
        return
    made = task.made / PICTURE_TOKENIZER
    codec = PatchCodec.from_pretrained(made / CODEC)
    build_unified(
        directory,
        texts=taught_texts(config, TEXTS),
        block_names=tuple(config.chain),
        num_codes=codec.num_codes,
        stride_px=policy.stride_px,
        max_positions=MAX_POSITIONS,
        seed=config.seed,
    )
    start_codes(directory, codec.codebook.weight.detach(), seed=config.seed)
    shutil.copytree(made / CODEC, directory / CODEC)
