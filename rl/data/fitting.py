"""Prompts that fit: a source whose prompts are no longer than the model's context leaves room for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.schema import BlockConfig, Config, PromptTable
from rl.data.once import say_once
from rl.data.source import Answer, PromptSource
from rl.errors import DataError
from rl.types import Pixels, Prompt

STRIDE = 10_000_000_000
"""Between the indexes that are tried in a dropped prompt's place: far past all that a run draws."""
MOST_TRIES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class FittingSource(PromptSource):
    """A source without its prompts that are too long; the same index still gives the same prompt everywhere."""

    source: PromptSource
    num_tokens: Callable[[Prompt[Any]], int]
    """Length of a prompt in the text policy's tokens, its pictures expanded."""
    longest: int
    """Most tokens that leave room for an answer."""
    too_long: Literal["stop", "drop"]
    """Refuse a prompt that is longer, or take another in its place."""

    def train(self, index: int) -> Prompt[Any]:
        """Return a training prompt, or in the place of one that is too long another.

        Raises:
            DataError: If it is too long and is not to be dropped, or so are all that were tried.
        """
        for attempt in range(MOST_TRIES):
            if self._fits(prompt := self.source.train(index + attempt * STRIDE)):
                return prompt
        raise DataError(
            f"data.too_long: {MOST_TRIES} prompts in a row have more than {self.longest} tokens; take shorter "
            "ones, or a model of a longer context"
        )

    def held_out(self, num: int) -> list[Prompt[Any]]:
        """Return held-out prompts that fit, as many as there are up to ``num``."""
        asked = num
        while True:
            prompts = self.source.held_out(asked)
            fitting = [prompt for prompt in prompts if self._fits(prompt)]
            if len(fitting) >= num or len(prompts) < asked:
                return fitting[:num]
            asked += num - len(fitting)

    def num_train(self) -> int | None:
        """Return how many prompts an epoch has, dropped ones included."""
        return self.source.num_train()

    def about(self) -> Mapping[str, str]:
        """Say what the source says."""
        return self.source.about()

    def files(self) -> list[Path]:
        """Name the source's files."""
        return self.source.files()

    def training_texts(self) -> list[str]:
        """Return the source's texts."""
        return self.source.training_texts()

    def answer(self, prompt: Prompt, blocks: Mapping[str, BlockConfig], seed: int) -> Answer:
        """Return the source's answer."""
        return self.source.answer(prompt, blocks, seed)

    def baselines(self, prompt: Prompt) -> Mapping[str, Pixels]:
        """Return the source's baselines."""
        return self.source.baselines(prompt)

    @classmethod
    def of(
        cls, source: PromptSource, config: Config, *, num_tokens: Callable[[Prompt[Any]], int], longest: int
    ) -> FittingSource:
        """Hold a run's source to the model's context, as ``data.too_long`` says; other sources' prompts stop the run.

        Args:
            source: The run's.
            config: The run.
            num_tokens: Length of a prompt in the text policy's tokens, its pictures expanded.
            longest: Most tokens that leave room for an answer.
        """
        too_long = config.data.too_long if isinstance(config.data, PromptTable) else "stop"
        return cls(source=source, num_tokens=num_tokens, longest=longest, too_long=too_long)

    def _fits(self, prompt: Prompt[Any]) -> bool:
        num = self.num_tokens(prompt)
        if num <= self.longest:
            return True
        said = f"{prompt.prompt_id}: {num} tokens, and the model's context leaves {self.longest} for a prompt"
        if self.too_long == "stop":
            raise DataError(f"{said}; shorten it, or set data.too_long=drop")
        say_once(f"{said}; it is left out", logging.WARNING)
        return False
