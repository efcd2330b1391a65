"""Restoration model: what it sees and predicts, as functions that rollout, learner and cold start share.

Torch only. It imports nothing of ours, because a copy lies in every checkpoint beside the pipeline's.

Letters: B rows, n text ids, d text width, H W pixels, p patch. Pictures inside are float32 in -1..1, ``[B, 3, H, W]``;
a "latent" is a picture in that form: the flow runs in pixel space.

The net sees ``p x p`` patches as channels (cheap at full width), predicts the clean picture as a residual to the
upscaled degraded photo, and starts with a zero residual: untrained it is bicubic. The flow starts at that
photo plus a little noise.

Differs from the paper:
    RealSR-R1 writes picture tokens with the model that writes its text. Here a flow model paints, given the
    degraded photo, the picture before it and the text so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Pixels = NDArray[np.uint8]

NUM_FLAG_CHANNELS = 2
"""Constant input planes: whether there is a picture before, and half the binary logarithm of the scale."""

RESIDUAL_SCALE = 0.2
"""Typical size of a residual to the degraded photo, in latent units: the net sees and predicts numbers near 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Everything a picture is painted from, for B rows of one output size."""

    degraded: Tensor
    """The degraded photo at the output size, ``[B, 3, H, W]``: also the mean of the flow's source."""
    previous: Tensor
    """The picture before it at the output size, or ``degraded`` again where there is none; same shape."""
    flags: Tensor
    """``[B, NUM_FLAG_CHANNELS]``."""
    text: Tensor
    """Encoder states, ``[B, n, d]``."""
    text_mask: Tensor
    """True where there is text, ``[B, n]``; every row has at least one id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """The other branch of classifier-free guidance: no text. The pictures of the condition stay."""

    scale: float
    """g: ``without + g (with - without)``."""
    text: Tensor
    """Encoder states of the empty text, ``[B, n, d]``, as long as the condition's."""
    text_mask: Tensor
    """``[B, n]``."""


def to_latents(pictures: Sequence[Pixels]) -> Tensor:
    """Turn pictures of equal size, ``uint8[H, W, 3]`` each, into ``float32[B, 3, H, W]`` in -1..1."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.float().div_(127.5).sub_(1.0).contiguous()


def to_pictures(latents: Tensor) -> list[Pixels]:
    """Clip and round latents ``[B, 3, H, W]`` to pictures ``uint8[H, W, 3]``."""
    pixels = latents.detach().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def resize(latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bicubically (as Pillow does, antialiased when shrinking) to ``(H, W)`` and clip to -1..1."""
    if tuple(latents.shape[2:]) == size:
        return latents
    return F.interpolate(latents, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def make_condition(
    degraded: Sequence[Pixels],
    previous: Sequence[Pixels | None],
    size: tuple[int, int],
    text: tuple[Tensor, Tensor],
) -> Condition:
    """Build the condition of B rows.

    Args:
        degraded: Degraded photos; sizes may differ between rows.
        previous: The picture before, or None, for each row.
        size: Output height and width, pixels.
        text: Encoder states ``[B, n, d]`` and mask ``[B, n]``.

    Returns:
        The condition, on the device of the text.
    """
    device = text[0].device
    source = torch.cat([resize(to_latents([picture]), size) for picture in degraded])
    before = [
        source[row : row + 1] if picture is None else resize(to_latents([picture]), size)
        for row, picture in enumerate(previous)
    ]
    flags = [
        [float(before_it is not None), float(np.log2(size[0] / photo.shape[0]) / 2)]
        for photo, before_it in zip(degraded, previous, strict=True)
    ]
    return Condition(
        degraded=source.to(device),
        previous=torch.cat(before).to(device),
        flags=torch.tensor(flags, dtype=torch.float32, device=device),
        text=text[0],
        text_mask=text[1],
    )


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of one text, cut to the tokenizer's length; never empty (the tokenizer ends every text)."""
    ids: list[int] = tokenizer(text, truncation=True)["input_ids"]
    return ids


def pad_ids(rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """Pad id lists on the right: ids ``i64[B, n]`` and mask ``bool[B, n]``."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(np.asarray(row), dtype=torch.int64)
    return ids, torch.arange(ids.shape[1])[None, :] < lengths[:, None]


def encode_text(encoder: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the text encoder's states ``[B, n, d]`` and the mask again."""
    states: Tensor = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return states, mask


def predict_clean(net: nn.Module, latents: Tensor, sigma: Tensor, condition: Condition, patch: int) -> Tensor:
    """Predict the clean picture from a noisy one.

    Args:
        net: A ``UNet2DConditionModel`` over patches.
        latents: ``[B, 3, H, W]`` at ``sigma``.
        sigma: ``[B]``, 0..1.
        condition: Of the same rows.
        patch: p; H and W are multiples of p times the net's own reduction.

    Returns:
        ``[B, 3, H, W]``, not clipped. Gradient flows.
    """
    seen = [(latents - condition.degraded) / RESIDUAL_SCALE, condition.degraded]
    seen.append((condition.previous - condition.degraded) / RESIDUAL_SCALE)
    pictures = torch.cat(seen, dim=1)
    patches = F.pixel_unshuffle(pictures, patch)
    planes = condition.flags[:, :, None, None].expand(-1, -1, *patches.shape[2:])
    dtype = next(net.parameters()).dtype
    residual = net(
        torch.cat([patches, planes], dim=1).to(dtype),
        sigma * 1000.0,
        encoder_hidden_states=condition.text.to(dtype),
        encoder_attention_mask=condition.text_mask,
    ).sample
    return condition.degraded + RESIDUAL_SCALE * F.pixel_shuffle(residual.float(), patch)


def predict_guided(
    net: nn.Module,
    latents: Tensor,
    sigma: Tensor,
    condition: Condition,
    guidance: Guidance | None,
    patch: int,
) -> Tensor:
    """Predict the clean picture under classifier-free guidance.

    Both branches are rows of one batch of twice the size, and gradient flows through both, so the
    log-probs are those of the distribution that is sampled from.

    Args:
        net: A ``UNet2DConditionModel`` over patches.
        latents: ``[B, 3, H, W]`` at ``sigma``.
        sigma: ``[B]``, 0..1.
        condition: Of the same rows.
        guidance: The branch without text; None predicts with text only, in a batch of B.
        patch: As in ``predict_clean``.

    Returns:
        ``without + g (with - without)``, ``[B, 3, H, W]``, not clipped.

    Source:
        Ho & Salimans 2022 (classifier-free guidance), eq. 6, on the predicted picture.
    Differs from the paper:
        ``scale`` 1 is none, as in diffusers; the paper's w is ``scale - 1``.
    """
    if guidance is None:
        return predict_clean(net, latents, sigma, condition, patch)
    both = Condition(
        degraded=torch.cat([condition.degraded] * 2),
        previous=torch.cat([condition.previous] * 2),
        flags=torch.cat([condition.flags] * 2),
        text=torch.cat([condition.text, guidance.text]),
        text_mask=torch.cat([condition.text_mask, guidance.text_mask]),
    )
    clean = predict_clean(net, torch.cat([latents] * 2), torch.cat([sigma] * 2), both, patch)
    with_text, without = clean.chunk(2)
    return without + guidance.scale * (with_text - without)
