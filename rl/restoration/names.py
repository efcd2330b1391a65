"""Names of what a restoration prompt carries, and readers that know their types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rl.errors import DataError
from rl.types import Message, P, PicturePart, Pixels, Prompt, TextPart

DEGRADED = "degraded"
"""Picture: the photograph to restore, its true (small) size. The only one that is shown."""
TRUTH = "truth"
"""Picture: the ground truth at the output size. A real photograph has none."""
LABELS = "labels"
"""Reference: degradation words by slot (blur, resize, noise, compression, resize); may be empty."""
TAGS = "tags"
"""Reference: things the photograph shows; may be empty."""
CAPTIONS = "captions"
"""Reference: true understanding texts, coarse to fine; may be empty."""

INSTRUCTION = (
    "look at the degraded photo, name what degraded it, say what it shows, "
    "then restore it step by step in three pictures, from coarse to fine"
)
"""What is asked, after the degraded photo. Long enough for a prompt to fill a cache block of 32 tokens, so that a
group shares its prefill."""
REQUEST = Message(role="user", parts=(PicturePart(DEGRADED), TextPart(INSTRUCTION)))
"""The photograph, and what to do with it."""


def restoration_prompt(
    prompt_id: str,
    degraded: Pixels,
    truth: Pixels | None = None,
    *,
    labels: Sequence[str] = (),
    tags: Sequence[str] = (),
    captions: Sequence[str] = (),
    seed: int = 0,
) -> Prompt:
    """Ask for a photograph to be restored.

    Args:
        prompt_id: Stable over runs.
        degraded: The photograph, ``uint8[h, w, 3]``.
        truth: Its ground truth at the output size, where there is one.
        labels: See ``LABELS``.
        tags: See ``TAGS``.
        captions: See ``CAPTIONS``.
        seed: Seed base of everything sampled for it.
    """
    return Prompt(
        prompt_id=prompt_id,
        messages=(REQUEST,),
        pictures={DEGRADED: degraded} | ({} if truth is None else {TRUTH: truth}),
        shown=(DEGRADED,),
        reference={LABELS: list(labels), TAGS: list(tags), CAPTIONS: list(captions)},
        seed=seed,
    )


def degraded_of(prompt: Prompt[P]) -> P:
    """Return the photograph to restore.

    Raises:
        DataError: If the prompt is of something else.
    """
    if DEGRADED not in prompt.pictures:
        raise DataError(
            f"{prompt.prompt_id}: has no picture {DEGRADED!r} to restore, but {list(prompt.pictures)}"
        )
    return prompt.pictures[DEGRADED]


def truth_of(prompt: Prompt[P]) -> P | None:
    """Return the ground truth, or None where there is none."""
    return prompt.pictures.get(TRUTH)


def needed_truth(prompt: Prompt, why: str) -> Pixels:
    """Return the ground truth.

    Raises:
        DataError: If there is none; names the prompt and says why one is needed.
    """
    truth = truth_of(prompt)
    if truth is None:
        raise DataError(f"{prompt.prompt_id}: {why}")
    return truth


def words_of(prompt: Prompt[Any], name: str) -> tuple[str, ...]:
    """Return a reference value that is a list of words; () where there is none.

    Raises:
        DataError: If it is something else.
    """
    value = prompt.reference.get(name) or ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DataError(f"{prompt.prompt_id}: {name} is {value!r}, want a list of words")
    return tuple(str(word) for word in value)
