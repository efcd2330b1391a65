"""Right answers to restoration prompts: true texts, and pictures as a painter in training would make them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from configs.schema import BlockConfig
from rl.data.images import resize
from rl.data.source import Answer
from rl.errors import DataError
from rl.restoration.labels import degradation_text
from rl.restoration.names import CAPTIONS, LABELS, degraded_of, truth_of, words_of
from rl.seeding import derive_seed
from rl.types import Pixels, Prompt

DEGRADATION_BLOCK = "degradation"
"""The text block that names the degradations; the others take the captions, coarse to fine."""


def right_answer(prompt: Prompt, blocks: Mapping[str, BlockConfig], seed: int) -> Answer:
    """Return the right texts, and a picture for every image block.

    The picture of a policy that writes the text too is the truth. Of another's it lies at random between the truth and
    the enlarged degraded photo: when the text policy is used, it is the image policy's own, which may be as blurred as
    either.

    Args:
        prompt: With labels and captions.
        blocks: The chain's, in order.
        seed: Of the pictures.

    Raises:
        DataError: If labels or captions are missing.
    """
    rng = np.random.default_rng(derive_seed(seed, "context pictures", prompt.prompt_id))
    writers = {block.policy for block in blocks.values() if block.kind == "text"}
    pictures = {
        name: _between(prompt, block.size_px, 1.0 if block.policy in writers else rng.uniform())
        for name, block in blocks.items()
        if block.kind == "image"
    }
    return Answer(texts=true_texts(prompt, blocks), pictures=pictures)


def true_texts(prompt: Prompt, blocks: Mapping[str, BlockConfig]) -> dict[str, str]:
    """Return the right body of every text block.

    Raises:
        DataError: If labels or captions are missing.
    """
    texts, labels = {}, words_of(prompt, LABELS)
    captions = iter(words_of(prompt, CAPTIONS))
    for name, block in blocks.items():
        if block.kind == "image":
            continue
        if name == DEGRADATION_BLOCK:
            texts[name] = degradation_text(labels) if labels else ""
        else:
            texts[name] = next(captions, "")
        if not texts[name]:
            what = "degradation labels" if name == DEGRADATION_BLOCK else "a caption"
            raise DataError(f"{prompt.prompt_id}: the text cold start needs {what} for <{name}>")
    return texts


def _between(prompt: Prompt, size: int, share: float) -> Pixels:
    """Mix a share of the truth and the rest of the enlarged degraded photo, ``u8[size, size, 3]``."""
    blurred, photo = resize(degraded_of(prompt), size, size), truth_of(prompt)
    if photo is None:
        return blurred
    truth = resize(photo, size, size)
    return np.rint(share * truth + (1 - share) * blurred).astype(np.uint8)
