"""A source of prompts as a user would write one: sums to do, without a picture."""

import numpy as np

from rl.data.source import PromptSource
from rl.types import Message, Prompt, TextPart


class Sums(PromptSource):
    def __init__(self, *, seed: int, most: int = 9) -> None:
        self.seed, self.most = seed, most

    def train(self, index: int) -> Prompt:
        one, two = index % self.most, (index + self.seed) % self.most
        return Prompt(
            prompt_id=f"sum/{index}",
            messages=(Message(role="user", parts=(TextPart(f"{one} + {two} ="),)),),
            reference={"ground_truth": str(one + two)},
        )

    def held_out(self, num: int) -> list[Prompt]:
        return [self.train(10**6 + index) for index in range(num)]


class Lazy(PromptSource):
    def train(self, index: int) -> Prompt:
        return Prompt(prompt_id=str(index))


class Odd(Sums):
    """Its reference values are what no data file could hold."""

    def train(self, index: int) -> Prompt:
        return Prompt(prompt_id=str(index), reference={"truth": {1, 2}})


class Clash(Sums):
    """Its picture has the name of a block, and so has one of its reference values, which is fine."""

    def train(self, index: int) -> Prompt:
        picture = np.zeros((8, 8, 3), dtype=np.uint8)
        known = {"rough_understand": 1, "ground_truth": "4"}
        return Prompt(prompt_id=str(index), pictures={"degradation": picture}, reference=known)
