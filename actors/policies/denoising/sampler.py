"""Sampler of the restoration painter: paints batches, and records what the learner needs to score them again.

The rollout side of the denoising policy: the same functions as the learner's (``image_model`` and
``rl.denoising.samplers``), so that both compute the same log-probs. Knows nothing of queues, threads or chains.

Letters: B pictures of one size, K steps, A trained ones, C h w a latent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.policies.denoising.image_model import (
    Condition,
    Guidance,
    predict_guided,
    prepare,
    to_pictures,
)
from rl.compat.torchvision import ensure_torchvision
from rl.denoising.samplers import Source, step_mean_std
from rl.denoising.step_selection import all_steps
from rl.denoising.steps import flow_sigmas, gaussian_logprob
from rl.errors import RolloutError
from rl.restoration.names import DEGRADED
from rl.types import PREVIOUS, DenoisingSegment, Floats, ImageRequest, Pixels, SamplerSpec, StepPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintJob:
    """A request with the pictures it names."""

    request: ImageRequest
    pictures: Mapping[str, Pixels]
    """By name, in the request's order."""

    @property
    def degraded(self) -> Pixels:
        """The photograph that the net restores."""
        if DEGRADED not in self.pictures:
            raise RolloutError(
                f"{self.request.request_id}: the built-in picture net restores a picture named {DEGRADED!r}; "
                f"it is shown {list(self.pictures)}"
            )
        return self.pictures[DEGRADED]

    @property
    def previous(self) -> Pixels | None:
        """The chain's picture before, where there is one."""
        return self.pictures.get(PREVIOUS)

    @property
    def plan(self) -> StepPlan:
        """Its random and trained steps."""
        if self.request.sampler.noise_level == 0:
            return StepPlan(random=(), trained=())
        return self.request.steps or all_steps(self.request.num_steps)

    @property
    def key(self) -> tuple[int, int, SamplerSpec, tuple[int, ...]]:
        """Jobs with equal keys fit one batch; which steps are trained does not matter to painting."""
        request = self.request
        return (request.size_px, request.num_steps, request.sampler, self.plan.random)


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

    from actors.policies.denoising.pipeline import RestorationPipeline

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipeline = RestorationPipeline.from_pretrained(directory, dtype=dtype).to(device)
    for module in (pipeline.unet, pipeline.text_encoder):
        module.eval().requires_grad_(False)
    return pipeline


@torch.no_grad()
def paint(pipeline: Any, jobs: Sequence[PaintJob], *, keep_step_means: bool = False) -> list[Painted]:
    """Paint jobs of one key as one batch.

    Each job's noise comes from its own seeds, so a picture depends on its batch in the last digits only.

    Args:
        pipeline: From ``load_pipeline``.
        jobs: Of equal ``key``.
        keep_step_means: Record the means of the trained steps.

    Returns:
        Pictures and segments in the order of ``jobs``.
    """
    request = jobs[0].request
    condition, guidance, rows = prepare(
        pipeline.tokenizer,
        pipeline.text_encoder,
        [job.request.text for job in jobs],
        [(job.degraded, job.previous) for job in jobs],
        (request.size_px, request.size_px),
        request.sampler.guidance_scale,
    )
    noise = torch.stack([_noise(job.request) for job in jobs]).to(pipeline.unet.device)
    kept = set().union(*(job.plan.trained for job in jobs)) if keep_step_means else frozenset()
    steps = _denoise(pipeline, condition, guidance, noise, jobs[0], kept)
    pictures = to_pictures(steps.latents[:, -1])
    return [
        Painted(picture=pictures[row], segment=_segment(job, steps, row, rows[row]))
        for row, job in enumerate(jobs)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """A batch's way from source to picture."""

    latents: Tensor
    """``[B, K+1, C, h, w]``."""
    sigmas: Tensor
    """``[K+1]``, on the CPU."""
    logprobs: Tensor
    """``[B, K]``; 0 where deterministic."""
    means: Mapping[int, Tensor]
    """By step, where they are kept: ``[B, C, h, w]``."""


def _noise(request: ImageRequest) -> Tensor:
    """Draw a request's noise, ``[K, 3, size, size]``: the source first, then the steps between."""

    def draw(seed: int, num: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(num, 3, request.size_px, request.size_px, generator=generator)

    noise = draw(request.seed, request.num_steps)
    if request.source_seed is not None:
        noise[:1] = draw(request.source_seed, 1)
    return noise


def _denoise(
    pipeline: Any,
    condition: Condition,
    guidance: Guidance | None,
    noise: Tensor,
    job: PaintJob,
    kept: Collection[int],
) -> _Steps:
    """Run the flow and keep the means of some steps; ``job`` is any of the batch's."""
    config, sampler = pipeline.config, job.request.sampler
    source = Source(condition.degraded, config.source_std)
    num_steps = job.request.num_steps
    sigmas = flow_sigmas(num_steps)
    latents = [condition.degraded + config.source_std * noise[:, 0]]
    logprobs, means = list[Tensor](), dict[int, Tensor]()
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas.to(noise.device))):
        x, level = latents[-1], sampler.noise_level if step in job.plan.random else 0.0
        rows = sigma.expand(x.shape[0])
        clean = predict_guided(pipeline.unet, x, rows, condition, guidance, config.patch)
        mean, std = step_mean_std(sampler.kind, x, clean, rows, sigma_next, level, source)
        following = mean + std * noise[:, step + 1] if level and step < num_steps - 1 else mean
        if step in kept:
            means[step] = mean
        logprobs.append(gaussian_logprob(following, mean, std, sampler.reduction))
        latents.append(following)
    return _Steps(
        latents=torch.stack(latents, dim=1),
        sigmas=sigmas,
        logprobs=torch.stack(logprobs, dim=1),
        means=means,
    )


def _segment(job: PaintJob, steps: _Steps, row: int, text_ids: Sequence[int]) -> DenoisingSegment:
    """Record one picture; log-probs and means of its trained steps only."""
    trained = list(job.plan.trained)
    actions = np.zeros(job.request.num_steps, dtype=np.bool_)
    actions[trained] = True
    means = np.stack([_numpy(steps.means[step][row]) for step in trained]) if steps.means else None
    return DenoisingSegment(
        block=job.request.block,
        latents=_numpy(steps.latents[row]),
        sigmas=_numpy(steps.sigmas),
        behaviour_logprobs=np.where(actions, _numpy(steps.logprobs[row]), np.float32(0)),
        action_mask=actions,
        pictures=tuple(job.pictures),
        text_ids=np.asarray(text_ids, dtype=np.int32),
        size_px=job.request.size_px,
        sampler=job.request.sampler,
        behaviour_step_mean=means,
    )


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
