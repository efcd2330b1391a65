"""Cold start of the picture policy: a random checkpoint, data made once, and the supervised loss.

Independent of DeepSpeed and Ray: a generic supervised loop drives ``model(batch) -> loss`` and an iterator.

Letters: B rows, N examples, S sizes, n text ids, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from actors.policies.denoising.image_model import (
    RESIDUAL_SCALE,
    Condition,
    encode_text,
    pad_ids,
    predict_clean,
    resize,
    to_latents,
    tokenize,
)
from actors.policies.denoising.parts import make_net, make_text_encoder, make_tokenizer
from actors.policies.denoising.sampler import load_pipeline
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError, DataError
from rl.restoration.labels import degradation_text
from rl.restoration.names import CAPTIONS, LABELS, degraded_of, truth_of, words_of
from rl.seeding import derive_seed
from rl.types import Prompt

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
    """``[N, h, w, 3]``."""
    truth: NDArray[np.uint8]
    """``[N, H, W, 3]``."""
    text_ids: tuple[tuple[tuple[int, ...], ...], ...]
    """``[N][S]``: ids of the text so far when a picture of that size is painted."""
    sizes: tuple[int, ...]
    """Picture sizes of the chain, pixels, in the order of painting."""
    no_text: tuple[int, ...]
    """Ids of the empty text."""


def make_dataset(prompts: Sequence[Prompt], *, sizes: Sequence[int], tokenizer: Any) -> ImageDataset:
    """Collect photographs and ground-truth texts of prompts.

    Args:
        prompts: Each with a ground-truth photo.
        sizes: Sizes of the chain's image blocks, in order, pixels.
        tokenizer: The image policy's.

    Raises:
        DataError: If a prompt has no ground truth.
    """
    truths = []
    for prompt in prompts:
        truth = truth_of(prompt)
        if truth is None:
            raise DataError(f"{prompt.prompt_id}: the cold start needs a ground-truth photo")
        truths.append(truth)
    ids = [
        tuple(tuple(tokenize(tokenizer, text)) for text in texts_so_far(prompt, len(sizes)))
        for prompt in prompts
    ]
    return ImageDataset(
        degraded=np.stack([degraded_of(prompt) for prompt in prompts]),
        truth=np.stack(truths),
        text_ids=tuple(ids),
        sizes=tuple(sizes),
        no_text=tuple(tokenize(tokenizer, "")),
    )


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


class ImageTeacher(nn.Module):
    """Net and text encoder under the supervised loss.

    The picture before, which a picture is conditioned on, is the net's own one-step guess: with ground truth in
    its place the net would learn to trust what it never gets when it samples.

    Args:
        directory: Checkpoint to start from.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._pipeline = [
            load_pipeline(directory, torch.float32, torch.device("cpu"))
        ]  # hidden from nn.Module
        pipeline = self._pipeline[0]
        self._patch, self._source_std = int(pipeline.config.patch), float(pipeline.config.source_std)
        self.unet: nn.Module = pipeline.unet.requires_grad_(True)
        self.text_encoder: nn.Module = pipeline.text_encoder.requires_grad_(True)

    @property
    def tokenizer(self) -> Any:
        """The text condition's tokenizer."""
        return self._pipeline[0].tokenizer

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean squared error of the clean picture, in units of a typical residual.

        Each row is trained twice: at the source, where all that is known is the condition, and at a later step
        on the way to the truth or to what the net has just guessed.

        Args:
            batch: From ``batches``.

        Returns:
            Scalar; 1 is about what bicubic leaves.
        """
        text, mask = encode_text(self.text_encoder, batch["text_ids"], batch["text_mask"])
        degraded, truth = batch["degraded"], batch["truth"]
        previous = self._guess(batch, text.detach())
        has_previous = batch["has_previous"]
        condition = Condition(
            degraded=degraded,
            previous=torch.where(_rows(has_previous), previous, degraded),
            flags=torch.stack([has_previous.float(), batch["log_scale"][:, 1]], dim=1),
            text=text,
            text_mask=mask,
        )
        sigma = batch["sigma"]
        source = degraded + self._source_std * batch["noise"]
        first = predict_clean(self.unet, source, torch.ones_like(sigma), condition, self._patch)
        end = torch.where(_rows(batch["from_guess"]), first.detach(), truth)
        noisy = torch.lerp(end, source, _rows(sigma))
        later = predict_clean(self.unet, noisy, sigma, condition, self._patch)
        return (F.mse_loss(first, truth) + F.mse_loss(later, truth)) / (2 * RESIDUAL_SCALE**2)

    @torch.no_grad()
    def _guess(self, batch: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """Guess the picture before in one step, add a little noise, and enlarge it."""
        degraded = batch["degraded_before"]
        if not bool(batch["has_previous"].any()):
            return batch["degraded"]
        scale = batch["log_scale"][:, 0]
        condition = Condition(
            degraded=degraded,
            previous=degraded,
            flags=torch.stack([torch.zeros_like(scale), scale], dim=1),
            text=text,
            text_mask=batch["text_mask"],
        )
        source = degraded + self._source_std * batch["noise_before"]
        guess = predict_clean(self.unet, source, torch.ones_like(scale), condition, self._patch)
        guess = guess + _rows(batch["previous_noise"]) * batch["noise_before"].flip(0)
        height, width = batch["degraded"].shape[2:]
        return resize(guess.clamp(-1, 1), (height, width))

    def export(self, directory: Path) -> None:
        """Write the pipeline with the present weights."""
        self._pipeline[0].save_pretrained(directory)


def _rows(values: Tensor) -> Tensor:
    """Shape ``[B]`` to ``[B, 1, 1, 1]``."""
    return values[:, None, None, None]


# --------------------------------------------------------------------------------- the first checkpoint


def build_image_policy(
    directory: Path,
    *,
    texts: Sequence[str],
    sizes: Sequence[int] = (),
    seed: int,
    channels: Sequence[int] = (64, 64),
    patch: int = 4,
    source_std: float = 0.15,
) -> None:
    """Write a small random checkpoint that restores like bicubic.

    Args:
        directory: Where to.
        texts: What the tokenizer must know the words of.
        sizes: Sizes of the chain's image blocks, pixels; only checked: one net paints them all.
        seed: Of the initial weights.
        channels: Width of the net at each resolution; pictures are multiples of ``patch * 2^(levels - 1)``.
        patch: Pixels along the edge of a patch.
        source_std: Deviation of the source noise, in latent units. Larger gives more to explore and less fidelity.

    Raises:
        ConfigError: If a size is not a multiple of the net's coarsest cell.
    """
    cell = patch * 2 ** (len(channels) - 1)
    if odd := [size for size in sizes if size % cell]:
        raise ConfigError(
            f"chain: size_px={odd[0]} is not a multiple of {cell}, which the built-in picture net needs"
        )
    ensure_torchvision()
    from diffusers import FlowMatchEulerDiscreteScheduler

    from actors.policies.denoising.pipeline import RestorationPipeline

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(texts)
    encoder = make_text_encoder(len(tokenizer))
    pipeline = RestorationPipeline(
        unet=make_net(channels, patch=patch, text_width=encoder.config.d_model),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        patch=patch,
        source_std=source_std,
    )
    pipeline.save_pretrained(directory)
