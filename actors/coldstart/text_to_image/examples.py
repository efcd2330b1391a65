"""Examples for the text-to-image cold start: prompts that the net is told, right pictures as latents, and batches.

Letters: B rows, N examples, T texts, n text tokens, C h w a latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.coldstart.supervised import rows_of_rank
from actors.policies.text_to_image.small import MAX_TOKENS
from rl.seeding import derive_seed
from rl.types import Pixels

NO_TEXT_SHARE = 0.1
"""Share of rows trained without text, for classifier-free guidance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintingExamples:
    """Encoded once, as text encoders and autoencoder stay as they are."""

    latents: Tensor
    """``[N, C, h, w]``."""
    asks: Tensor
    """Which text each picture is of, ``[N]``."""
    text: Tensor
    """``[T, n, d]``; the first is the empty one."""
    pooled: Tensor
    """``[T, d']``."""


@torch.no_grad()
def encode_examples(pipeline: Any, texts: Sequence[str], pictures: Sequence[Pixels]) -> PaintingExamples:
    """Encode N texts and their pictures, all of one size."""
    distinct = ["", *sorted({*texts} - {""})]
    text, _, pooled, _ = pipeline.encode_prompt(
        distinct, None, None, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
    )
    place = {words: index for index, words in enumerate(distinct)}
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
    vae = pipeline.vae
    means = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(64)])
    return PaintingExamples(
        latents=(means - vae.config.shift_factor) * vae.config.scaling_factor,
        asks=torch.tensor([place[words] for words in texts]),
        text=text,
        pooled=pooled,
    )


def batches(
    examples: PaintingExamples, *, batch_size: int, seed: int, rank: int, world: int
) -> Iterator[dict[str, Tensor]]:
    """Yield this rank's share of each batch, without end.

    Args:
        examples: Equal on all ranks.
        batch_size: Rows over all ranks.
        seed: Of order and noise.
        rank: This worker.
        world: Number of workers.
    """
    order = torch.Generator().manual_seed(derive_seed(seed, "supervised order"))
    draws = torch.Generator().manual_seed(derive_seed(seed, "supervised noise", rank))
    num = len(examples.asks)
    for rows in rows_of_rank(num, batch_size=batch_size, generator=order, rank=rank, world=world):
        truth = examples.latents[rows]
        has_text = torch.rand(len(rows), generator=draws) >= NO_TEXT_SHARE
        asked = torch.where(has_text, examples.asks[rows], 0)
        yield {
            "truth": truth,
            "noise": torch.randn(truth.shape, generator=draws),
            "sigma": torch.rand(len(rows), generator=draws),
            "text": examples.text[asked],
            "pooled": examples.pooled[asked],
        }
