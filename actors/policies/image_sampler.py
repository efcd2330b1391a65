"""Paints batches of pictures and records what the learner needs to score them again.

The rollout side of the denoising policy: the same functions as the learner's (``image_model``, ``rl.denoising``),
so that both compute the same log-probs. Knows nothing of queues, threads or chains.

Letters: B pictures of one size, K steps, C h w a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.policies.image_model import (
    Condition,
    encode_text,
    make_condition,
    pad_ids,
    predict_clean,
    to_pictures,
    tokenize,
)
from rl.denoising import flow_sigmas, gaussian_logprob, sde_mean_std, stochastic_steps, velocity_from_x0
from rl.torchvision_compat import ensure_torchvision
from rl.types import DEGRADED, DenoisingSegment, ImageRequest, Pixels, SamplerSpec

PREVIOUS = "previous"
"""What segments call the picture before: a worker does not know which block painted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintJob:
    """A request with the pictures it names."""

    request: ImageRequest
    degraded: Pixels
    previous: Pixels | None

    @property
    def key(self) -> tuple[int, int, float]:
        """Jobs with equal keys fit one batch."""
        return (self.request.size_px, self.request.num_steps, self.request.noise_level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """One finished picture."""

    picture: Pixels
    segment: DenoisingSegment


def load_pipeline(directory: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """Read a checkpoint in the diffusers layout, frozen and in evaluation mode."""
    ensure_torchvision()
    import diffusers
    import transformers

    from actors.policies.image_pipeline import RestorationPipeline

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipeline = RestorationPipeline.from_pretrained(directory, dtype=dtype).to(device)
    for module in (pipeline.unet, pipeline.text_encoder):
        module.eval().requires_grad_(False)
    return pipeline


@torch.no_grad()
def paint(pipeline: Any, jobs: Sequence[PaintJob]) -> list[Painted]:
    """Paint jobs of one key as one batch.

    Each job's noise comes from its own seed, so a picture depends on its batch in the last digits only.

    Args:
        pipeline: From ``load_pipeline``.
        jobs: Of equal ``key``.

    Returns:
        Pictures and segments in the order of ``jobs``.
    """
    request = jobs[0].request
    device = pipeline.unet.device
    rows = [tokenize(pipeline.tokenizer, job.request.text) for job in jobs]
    ids, mask = pad_ids(rows)
    text = encode_text(pipeline.text_encoder, ids.to(device), mask.to(device))
    size = (request.size_px, request.size_px)
    condition = make_condition([j.degraded for j in jobs], [j.previous for j in jobs], size, text)
    noise = torch.stack([_noise(job.request) for job in jobs]).to(device)
    sigmas = flow_sigmas(request.num_steps)
    latents, logprobs = _denoise(pipeline, condition, noise, sigmas.to(device), request.noise_level)
    pictures = to_pictures(latents[:, -1])
    actions = stochastic_steps(sigmas, request.noise_level).numpy()
    return [
        Painted(
            picture=pictures[index],
            segment=DenoisingSegment(
                block=job.request.block,
                latents=latents[index].cpu().numpy(),
                sigmas=sigmas.numpy(),
                behaviour_logprobs=logprobs[index].cpu().numpy(),
                action_mask=actions.copy(),
                pictures=(DEGRADED,) if job.previous is None else (DEGRADED, PREVIOUS),
                text_ids=np.asarray(rows[index], dtype=np.int32),
                size_px=request.size_px,
                sampler=SamplerSpec(noise_level=request.noise_level),
            ),
        )
        for index, job in enumerate(jobs)
    ]


def _noise(request: ImageRequest) -> Tensor:
    """Draw a request's noise, ``[K, 3, size, size]``: the source first, then the steps between."""
    generator = torch.Generator().manual_seed(request.seed)
    return torch.randn(request.num_steps, 3, request.size_px, request.size_px, generator=generator)


def _denoise(
    pipeline: Any, condition: Condition, noise: Tensor, sigmas: Tensor, noise_level: float
) -> tuple[Tensor, Tensor]:
    """Run the flow: latents ``[B, K+1, C, h, w]`` and log-probs ``[B, K]`` (0 where deterministic)."""
    config = pipeline.config
    latents = [condition.degraded + config.source_std * noise[:, 0]]
    logprobs = []
    num_steps = noise.shape[1]
    for step in range(num_steps):
        sigma = sigmas[step].expand(noise.shape[0])
        clean = predict_clean(pipeline.unet, latents[-1], sigma, condition, config.patch)
        mean, std = sde_mean_std(
            latents[-1],
            velocity_from_x0(latents[-1], clean, sigma),
            sigma,
            sigmas[step + 1],
            noise_level,
            condition.degraded,
            config.source_std,
        )
        following = mean if step == num_steps - 1 else mean + std * noise[:, step + 1]
        logprobs.append(gaussian_logprob(following, mean, std))
        latents.append(following)
    return torch.stack(latents, dim=1), torch.stack(logprobs, dim=1)
