"""Rubric of a judge model: its question and its scale of answers. Pure: it knows no model library."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from configs.suggest import suggest
from rewards.base import Missing, Need
from rl.errors import ConfigError
from rl.restoration.names import DEGRADED, LABELS, TAGS, TRUTH, words_of
from rl.types import ChainView, Pixels

FINAL = "final"
"""What a rubric calls the chain's last picture."""
CAPTIONS: Mapping[str, str] = {
    DEGRADED: "Degraded photo:",
    FINAL: "Restored photo:",
    TRUTH: "True photo:",
}
"""Words before a picture; another has its name."""
WORDS: Mapping[str, str] = {"text": Need.TEXT, TAGS: TAGS, LABELS: LABELS}
"""Placeholders besides the names of blocks."""
MAX_ANSWERS = 128
"""Most answers vLLM gives log-probs of."""


class Rubric:
    """A question with placeholders, and the pictures before it.

    Args:
        question: ``{text}`` is everything the chain wrote, ``{tags}`` and ``{labels}`` what is known of the photo,
            any other name the body of that block. Write ``{{`` for a brace.
        pictures: ``final``, and names of the prompt's, in the order shown.

    Raises:
        ConfigError: If a picture occurs twice, the question is no format string, or nothing of the chain is judged.
    """

    def __init__(self, question: str, pictures: Sequence[str]) -> None:
        if not isinstance(question, str) or not question.strip():
            raise ConfigError(f"rubric: want the question to the judge, got {question!r}")
        if isinstance(pictures, str) or len(set(pictures)) != len(pictures):
            raise ConfigError(f"pictures: want a list of different names, got {pictures!r}")
        self.question = question
        self.pictures = tuple(pictures)
        names = _placeholders(question)
        self.words = tuple(name for name in names if name in WORDS)
        self.blocks = tuple(name for name in names if name not in WORDS)
        """Blocks whose body the question holds."""
        if not (FINAL in pictures or "text" in self.words or self.blocks):
            raise ConfigError(
                "pictures: the judge would see nothing of the chain; add final, or {text} to the rubric"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Inputs without which the question cannot be asked."""
        pictures = (Need.FINAL_PICTURE if name == FINAL else name for name in self.pictures)
        return frozenset([*pictures, *(WORDS[name] for name in self.words)])

    def judged_blocks(self, chain: Sequence[str], text_blocks: Sequence[str]) -> tuple[str, ...]:
        """Return the blocks that earn the score.

        Args:
            chain: Names of all blocks in order.
            text_blocks: Those of text.

        Raises:
            ConfigError: If a placeholder is no text block of the chain.
        """
        for name in self.blocks:
            if name not in text_blocks:
                near = suggest(name, [*text_blocks, *WORDS])
                raise ConfigError(f"rubric: {{{name}}} is not a text block of the chain{near}")
        if FINAL in self.pictures:
            return tuple(chain)
        return tuple(text_blocks) if "text" in self.words else self.blocks

    def check_prompt(self, names: Collection[str]) -> None:
        """Refuse pictures that prompts do not have.

        Args:
            names: What a prompt carries.

        Raises:
            ConfigError: Names the picture.
        """
        for name in self.pictures:
            if name not in (known := [*names, FINAL]):
                raise ConfigError(f"pictures: no picture {name!r}{suggest(name, known)}")

    def lacks(self, chain: ChainView) -> Missing | None:
        """Say which block of the question the chain has not written."""
        absent = [name for name in self.blocks if name not in chain.block_text]
        return Missing(f"no {', '.join(absent)}") if absent else None

    def shown(self, chain: ChainView) -> list[Pixels]:
        """Return the pictures in order; the chain has all of them."""
        named = {**chain.prompt.pictures, FINAL: chain.final_picture}
        return [picture for name in self.pictures if (picture := named[name]) is not None]

    def message(
        self, chain: ChainView, answers: Sequence[str], reserved: Iterable[str]
    ) -> list[dict[str, Any]]:
        """Return the parts of one chat message: each picture behind its words, the question, the answers.

        Args:
            chain: Has every input needed.
            answers: What may be answered.
            reserved: The tokenizer's own tokens. They are taken out of what the policy wrote: a chain that spells
                the end of its turn could otherwise answer in the judge's place.
        """
        from PIL import Image

        parts: list[dict[str, Any]] = []
        for name, pixels in zip(self.pictures, self.shown(chain), strict=True):
            parts += [
                {"type": "text", "text": CAPTIONS.get(name, f"{name}:")},
                {"type": "image_pil", "image_pil": Image.fromarray(np.ascontiguousarray(pixels))},
            ]
        known = {
            "text": chain.text,
            TAGS: ", ".join(words_of(chain.prompt, TAGS)),
            LABELS: ", ".join(words_of(chain.prompt, LABELS)),
        }
        filled = {name: without(text, reserved) for name, text in {**chain.block_text, **known}.items()}
        ask = f"{self.question.format(**filled)}\nAnswer with one of: {', '.join(answers)}."
        return [*parts, {"type": "text", "text": ask}]


class Scale:
    """The answers a judge may give, and what each is worth.

    Args:
        answers: Worst first, worth evenly spaced values from 0 to 1; or a mapping to values in 0 to 1.

    Raises:
        ConfigError: If there are too few or too many, two are alike, or a value is outside 0 to 1.
    """

    def __init__(self, answers: Sequence[str | int] | Mapping[str | int, float]) -> None:
        if isinstance(answers, str) or not isinstance(answers, Sequence | Mapping):
            raise ConfigError(f"scale: want a list of answers, or a mapping to values, got {answers!r}")
        names = list(answers)
        if not 2 <= len(names) <= MAX_ANSWERS:
            raise ConfigError(f"scale: want 2 to {MAX_ANSWERS} answers, got {len(names)}")
        for name in names:
            if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
                raise ConfigError(
                    f"scale: want words or whole numbers, got {name!r}; put yes and no in quotes"
                )
        self.answers = tuple(str(name) for name in names)
        if len(set(self.answers)) != len(names):
            raise ConfigError(f"scale: two answers are alike in {', '.join(self.answers)}")
        worth = (
            answers.values() if isinstance(answers, Mapping) else np.linspace(0.0, 1.0, len(names)).tolist()
        )
        if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in worth):
            raise ConfigError("scale: every answer's value must be a number from 0 to 1")
        self.values = np.asarray(list(worth), dtype=np.float64)

    def ids(self, tokenizer: Any, before: str) -> tuple[int, ...]:
        """Look up the token that each answer is, right behind the prompt.

        Args:
            tokenizer: Hugging Face's; ``encode`` is all that is used.
            before: Last characters of the prompt.

        Raises:
            ConfigError: If an answer is not one token there, or two are the same.
        """
        prompt = _encode(tokenizer, before)
        ids = []
        for answer in self.answers:
            both = _encode(tokenizer, before + answer)
            if len(both) != len(prompt) + 1 or both[:-1] != prompt:
                raise ConfigError(
                    f"scale: {answer!r} is not one token of the judge model; take short words, or digits 0 to 9"
                )
            ids.append(both[-1])
        if len(set(ids)) != len(ids):
            raise ConfigError("scale: the judge model has one token for two of the answers; take other words")
        return tuple(ids)

    def expectation(self, logprobs: Sequence[float]) -> tuple[float, float]:
        """Return the mean value over the answers' probabilities, and their sum before normalisation.

        The mean is NaN where a log-prob is, or where no answer has any probability.

        Args:
            logprobs: Of the answers in order, nats.
        """
        nats = np.asarray(logprobs, dtype=np.float64)
        highest = float(nats.max())
        if not np.isfinite(highest):
            return float("nan"), 0.0
        weights = np.exp(nats - highest)
        total = float(weights.sum())
        return float(weights @ self.values) / total, total * float(np.exp(highest))


def without(text: str, reserved: Iterable[str]) -> str:
    """Put a space in the place of every reserved token; what is left spells none of them."""
    tokens = [token for token in reserved if token.strip()]
    while any(token in text for token in tokens):
        for token in tokens:
            text = text.replace(token, " ")
    return text


def _placeholders(question: str) -> tuple[str, ...]:
    """Return the names between braces, each once."""
    try:
        fields = list(string.Formatter().parse(question))
    except ValueError as error:
        raise ConfigError(f"rubric: {error}; write {{{{ and }}}} for braces") from error
    names = [name for _, name, form, conversion in fields if name is not None and not (form or conversion)]
    if len(names) != sum(name is not None for _, name, _, _ in fields) or not all(
        n.isidentifier() for n in names
    ):
        raise ConfigError("rubric: want plain names between braces, as in {text}; write {{ and }} for braces")
    return tuple(dict.fromkeys(names))


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = list(tokenizer.encode(text, add_special_tokens=False))
    return ids
