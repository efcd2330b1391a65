"""Cold start of a language model: supervised chains from a checkpoint, or from nothing, before GRPO."""

from __future__ import annotations

from pathlib import Path

from actors.coldstart.chains import ChainWriter
from actors.coldstart.restoration.text_trainer import train_text
from actors.coldstart.supervised_chains import learn_chains, taught_texts
from actors.coldstart.task import ColdstartTask
from actors.policies.base import TrainablePolicy
from actors.policies.token.checkpoint import local_directory
from actors.policies.token.policy import TokenPolicy
from actors.policies.token.small import build_language_model
from actors.policies.token.tags import write_with_tags
from actors.policies.token.tokenizer import load_tokenizer
from actors.policies.token.vocabulary import load_vocabulary
from configs.derive import COLDSTART, token_policy
from configs.schema import Photographs
from rl.chain.grammar import ChainGrammar

TEXTS = 2000
"""Most prompts whose words a tokenizer is trained on."""


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
    config, blocks = task.config, tuple(task.config.chain)

    def write_first(directory: Path) -> None:
        if policy.source == COLDSTART:
            texts = taught_texts(config, TEXTS)
            build_language_model(directory, texts=texts, block_names=blocks, seed=config.seed)
        else:
            write_with_tags(local_directory(Path(policy.source)), directory, blocks, policy.dtype)

    def writer_of(first: Path, trained: TrainablePolicy) -> ChainWriter:
        assert isinstance(trained, TokenPolicy)
        vocabulary = load_vocabulary(first, blocks, policy.chat_options)
        return ChainWriter(
            grammar=ChainGrammar(config.chain, vocabulary.tags),
            vocabulary=vocabulary,
            tokenizer=load_tokenizer(first),
            pictures=trained.pictures,
        )

    learn_chains(task, policy, write_first=write_first, writer_of=writer_of)
