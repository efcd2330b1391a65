"""Source of prompts: what every one offers, and the registry that finds a run's."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import BlockConfig, Config, OwnData
from rl.errors import ConfigError, DataError
from rl.targets import check_options, load_target
from rl.types import Pixels, Prompt

SHIPPED = {
    "photographs": "rl.restoration.prompts:photograph_source",
    "prompts": "rl.data.prompt_table:table_source",
}
"""Makes the source of each ``data.kind`` that is no one's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A right answer to a prompt."""

    texts: Mapping[str, str]
    """Body of each text block."""
    pictures: Mapping[str, Pixels]
    """Picture of each image block."""


class PromptSource(ABC):
    """Makes a run's prompts; the same index gives the same prompt in every process.

    One of your own is named by ``data.target`` and constructed with ``seed`` and ``data.options``.
    """

    @abstractmethod
    def train(self, index: int) -> Prompt[Any]:
        """Return a training prompt; all of them carry pictures and reference values of the same names.

        A picture is ``uint8[H, W, 3]``, or a file's content that is decoded where it is needed.

        Args:
            index: Any number from 0 up: an epoch's end is the source's business, as is the order.
        """

    @abstractmethod
    def held_out(self, num: int) -> list[Prompt[Any]]:
        """Return prompts to evaluate on, their ids all different; a larger ``num`` appends to a smaller one.

        Args:
            num: How many; there may be fewer.
        """

    def num_train(self) -> int | None:
        """Return how many prompts an epoch has; None where every index makes a new one."""
        return None

    def about(self) -> Mapping[str, str]:
        """Say what was found, for a person to read before the start: short name -> value."""
        return {}

    def files(self) -> list[Path]:
        """Name the picture files that prompts are made of; each is decoded once before a run starts."""
        return []

    def training_texts(self) -> list[str]:
        """Return texts with every word that chains may need, for a cold start that trains a tokenizer."""
        return []

    def answer(self, prompt: Prompt, blocks: Mapping[str, BlockConfig], seed: int) -> Answer:
        """Return a right answer to a prompt, for a cold start that trains on supervised chains.

        Args:
            prompt: One of this source's.
            blocks: The chain's, in order.
            seed: Of what is drawn for it.

        Raises:
            DataError: If none is known.
        """
        raise DataError(
            f"{prompt.prompt_id}: this source of prompts knows no answers, so nothing can be taught before GRPO; name "
            "a checkpoint in policies.<name>.source, and leave its coldstart out"
        )

    def baselines(self, prompt: Prompt) -> Mapping[str, Pixels]:
        """Return pictures that need no policy, by the name of their row: what an evaluation compares with."""
        return {}


def prompt_source(config: Config) -> PromptSource:
    """Return the source of a run's training and held-out prompts.

    Raises:
        ConfigError: If the target of a user's own is not there, no source, or does not take its options.
    """
    if not isinstance(config.data, OwnData):
        source: PromptSource = load_target(SHIPPED[config.data.kind], key="data.kind")(config)
        return source
    own, key = load_target(config.data.target, key="data.target"), "data.target"
    if not (inspect.isclass(own) and issubclass(own, PromptSource)):
        raise ConfigError(f"{key}: {config.data.target} is no subclass of rl.data.source.PromptSource")
    if missing := sorted(getattr(own, "__abstractmethods__", ())):
        raise ConfigError(f"{key}: {config.data.target} has no {', '.join(missing)}()")
    options = {**config.data.options, "seed": config.seed}
    check_options(own, options, key="data.options")
    return own(**options)
