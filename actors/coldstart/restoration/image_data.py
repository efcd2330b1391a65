"""Training data of the image policy's cold start: photographs with their true texts, and batches of one size.

Letters: B rows, N examples, S sizes, n text ids, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.policies.denoising.shown import as_shown
from actors.policies.restoration.image_model import pad_ids, resize, to_latents, tokenize
from configs.call import CallArgument, Shown
from rl.restoration.labels import degradation_text
from rl.restoration.names import CAPTIONS, LABELS, degraded_of, needed_truth, words_of
from rl.seeding import derive_seed
from rl.types import Pixels, Prompt

MIN_SIGMA = 0.2
"""Lowest sigma trained: the last one of five steps."""
GUESS_SHARE = 0.5
"""Share of rows whose later step starts from the net's own guess, the others from the truth. With 0 the sampler
amplifies its own errors (0.1 to 0.5 dB); with 1 the net ignores the noise and there is nothing to explore."""
FIRST_SHARE = 0.1
"""Share of larger pictures trained without a picture before them."""
NO_TEXT_SHARE = 0.1
"""Share of rows trained without text."""
PREVIOUS_NOISE = 0.05
"""Most noise added to the picture before, in latent units."""
LARGEST_SHARE = 0.4
"""Share of batches of the largest size, which cost most; the others share the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDataset:
    """Degraded and true photographs, made once."""

    degraded: NDArray[np.uint8]
    """``[N, h, w, 3]``, as the painter is shown them."""
    truth: NDArray[np.uint8]
    """``[N, H, W, 3]``."""
    text_ids: tuple[tuple[tuple[int, ...], ...], ...]
    """``[N][S]``: ids of the text so far when a picture of that size is painted."""
    sizes: tuple[int, ...]
    """Picture sizes of the chain, pixels, in the order of painting."""
    no_text: tuple[int, ...]
    """Ids of the empty text."""


def make_dataset(
    prompts: Sequence[Prompt], *, sizes: Sequence[int], tokenizer: Any, shown: CallArgument | None = None
) -> ImageDataset:
    """Collect photographs and ground-truth texts of prompts.

    Args:
        prompts: Each with a ground-truth photo.
        sizes: Sizes of the chain's image blocks, in order, pixels.
        tokenizer: The image policy's.
        shown: What the painter's call says of its degraded photo.

    Raises:
        DataError: If a prompt has no ground truth.
    """
    truths = [needed_truth(prompt, "the cold start needs a ground-truth photo") for prompt in prompts]
    ids = [
        tuple(tuple(tokenize(tokenizer, text)) for text in texts_so_far(prompt, len(sizes)))
        for prompt in prompts
    ]
    return ImageDataset(
        degraded=np.stack([_photo(prompt, shown) for prompt in prompts]),
        truth=np.stack(truths),
        text_ids=tuple(ids),
        sizes=tuple(sizes),
        no_text=tuple(tokenize(tokenizer, "")),
    )


def _photo(prompt: Prompt, shown: CallArgument | None) -> Pixels:
    """Return the degraded photo, restored where the painter is shown it so."""
    if not isinstance(shown, Shown) or not shown.is_restored:
        return degraded_of(prompt)
    (name,) = shown.names
    return as_shown(prompt.pictures[name], shown, prompt.pictures[name].shape[:2])


def texts_so_far(prompt: Prompt, num_pictures: int) -> list[str]:
    """Return the chain's true text before each picture: degradation, then one more caption a picture."""
    labels, captions = words_of(prompt, LABELS), words_of(prompt, CAPTIONS)
    start = [degradation_text(labels)] if labels else []
    return [" ".join([*start, *captions[: index + 1]]) for index in range(num_pictures)]


def batches(
    dataset: ImageDataset, *, batch_size: int, seed: int, rank: int = 0, world: int = 1
) -> Iterator[dict[str, Tensor]]:
    """Yield training batches of one size each, without end.

    Args:
        dataset: From ``make_dataset``.
        batch_size: Rows over all ranks.
        seed: Of order, noise and augmentation.
        rank: This worker; all ranks draw the same size at the same step.
        world: Number of workers.
    """
    common = np.random.default_rng(derive_seed(seed, "image teacher sizes"))
    generator = torch.Generator().manual_seed(derive_seed(seed, "image teacher", rank))
    shares = [(1 - LARGEST_SHARE) / max(len(dataset.sizes) - 1, 1)] * (len(dataset.sizes) - 1)
    shares.append(1 - sum(shares))
    while True:
        yield _batch(dataset, int(common.choice(len(shares), p=shares)), -(-batch_size // world), generator)


def _batch(dataset: ImageDataset, index: int, num: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw ``num`` rows of size ``index``, all turned the same random way."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    rows = torch.randint(len(dataset.degraded), (num,), generator=generator).tolist()
    turns, flip = int(uniform(1) * 4), bool(uniform(1) < 0.5)

    def turned(pictures: NDArray[np.uint8], size: int) -> Tensor:
        latents = resize(to_latents([pictures[row] for row in rows]), (size, size))
        return torch.rot90(latents.flip(3) if flip else latents, turns, (2, 3)).contiguous()

    size, before = dataset.sizes[index], dataset.sizes[max(index - 1, 0)]
    has_text = (uniform(num) >= NO_TEXT_SHARE).tolist()
    ids, mask = pad_ids(
        [dataset.text_ids[r][index] if t else dataset.no_text for r, t in zip(rows, has_text, strict=True)]
    )
    sigma = MIN_SIGMA + (1 - MIN_SIGMA) * uniform(num)
    scale = dataset.degraded.shape[1]
    return {
        "truth": turned(dataset.truth, size),
        "degraded": turned(dataset.degraded, size),
        "degraded_before": turned(dataset.degraded, before),
        "has_previous": (uniform(num) >= FIRST_SHARE) & (index > 0),
        "log_scale": torch.tensor([[np.log2(before / scale) / 2, np.log2(size / scale) / 2]])
        .float()
        .expand(num, 2),
        "text_ids": ids,
        "text_mask": mask,
        "sigma": sigma,
        "from_guess": uniform(num) < GUESS_SHARE,
        "noise": torch.randn(num, 3, size, size, generator=generator),
        "noise_before": torch.randn(num, 3, before, before, generator=generator),
        "previous_noise": PREVIOUS_NOISE * uniform(num),
    }
