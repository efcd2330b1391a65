"""Sampler of a picture policy: paints batches, and records what the learner needs to score them again.

Knows nothing of queues, threads or chains.

Letters: B pictures of one call, K steps, A trained ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.policies.denoising.conditioning import Answers, pack
from actors.policies.denoising.pipeline import Painting, PicturePipeline
from actors.policies.denoising.stepping import Rollout
from rl.denoising.step_selection import all_steps
from rl.types import DenoisingSegment, Floats, ImageRequest, Packed, Pixels, StepPlan

BatchKey = tuple[object, ...]
MAX_ANSWERS = 256
"""Texts whose encodings a sampler keeps; the one that was first asked for goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintJob:
    """A request with the pictures it names."""

    request: ImageRequest
    pictures: Mapping[str, Pixels]
    """By name, in the request's order."""

    @property
    def plan(self) -> StepPlan:
        """Its random and trained steps."""
        if self.request.sampler.noise_level == 0:
            return StepPlan(random=(), trained=())
        return self.request.steps or all_steps(self.request.num_steps)

    @property
    def painting(self) -> Painting:
        """What the pipeline is called with."""
        request = self.request
        return Painting(
            words=request.words,
            pictures=self.pictures,
            size=(request.height_px, request.size_px),
            seed=request.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyJob:
    """A job whose text encoders have answered."""

    job: PaintJob
    answers: Answers
    told: Packed
    """The answers, packed."""
    shape_key: tuple[int, ...]
    """Numbers that are equal where pictures can be painted and scored in one call."""

    @property
    def key(self) -> BatchKey:
        """Jobs with equal keys fit one batch; which steps are trained does not matter to painting."""
        return (self.shape_key, self.job.request.sampler, self.job.plan.random)


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """One finished picture."""

    picture: Pixels
    segment: DenoisingSegment
    told: Packed
    """What the text encoders said."""


class Sampler:
    """A pipeline that paints jobs.

    Args:
        pipeline: With its text encoders.
        keep_step_means: Record the means of the trained steps.
    """

    def __init__(self, pipeline: PicturePipeline, *, keep_step_means: bool = False) -> None:
        self._pipeline, self._keep_step_means = pipeline, keep_step_means
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._answers: dict[tuple[object, ...], tuple[Answers, Packed]] = {}

    def ready(self, job: PaintJob) -> ReadyJob:
        """Have the text encoders answer for a job, where they have not for one like it."""
        key = self._asked(job)
        if key not in self._answers:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.pop(next(iter(self._answers)))
            answers = self._pipeline.ask(job.painting)
            self._answers[key] = answers, pack(answers)
        answers, packed = self._answers[key]
        return ReadyJob(job=job, answers=answers, told=packed, shape_key=_shape_key(job, answers))

    def _asked(self, job: PaintJob) -> tuple[object, ...]:
        """Say what the encoders' answers depend on: words and, where they look at pictures, those."""
        words = tuple(job.request.words.values())
        if not self._pipeline.encodes_pictures:
            return words
        return (*words, *(part for name in job.pictures for part in (name, job.pictures[name].tobytes())))

    def paint(self, jobs: Sequence[ReadyJob]) -> list[Painted]:
        """Paint jobs of one key as one batch.

        Each job's noise comes from its own seeds, so a picture depends on its batch in the last digits only.

        Returns:
            Pictures and segments in the order of ``jobs``.
        """
        first = jobs[0]
        if first.shape_key not in self._shapes:
            self._shapes[first.shape_key] = self._pipeline.latent_shape(first.job.painting, first.answers)
        shape, plan = self._shapes[first.shape_key], first.job.plan
        noise = torch.stack([_noise(ready.job.request, shape) for ready in jobs]).to(self._pipeline.device)
        trained = frozenset(step for ready in jobs for step in ready.job.plan.trained)
        rollout = Rollout(
            sampler=first.job.request.sampler,
            random=frozenset(plan.random),
            noise=noise,
            kept=trained if self._keep_step_means else frozenset(),
        )
        pictures = self._pipeline.paint(
            [ready.job.painting for ready in jobs],
            [ready.answers for ready in jobs],
            num_steps=first.job.request.num_steps,
            latents=noise[:, 0],
            taker=rollout,
        )
        steps = _Steps.of(rollout)
        return [
            Painted(picture=pictures[row], segment=_segment(ready.job, steps, row), told=ready.told)
            for row, ready in enumerate(jobs)
        ]


def _shape_key(job: PaintJob, answers: Answers) -> tuple[int, ...]:
    request = job.request
    shown = [
        number for name, picture in job.pictures.items() for number in (*name.encode(), *picture.shape[:2])
    ]
    told = [number for answer in answers for number in answer.shape_key]
    return (request.size_px, request.height_px, request.num_steps, *shown, *told)


def _noise(request: ImageRequest, shape: tuple[int, ...]) -> Tensor:
    """Draw a request's noise, ``[K, ...]``: the initial latent first, then what the steps between may add."""

    def draw(seed: int, num: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(num, *shape, generator=generator)

    noise = draw(request.seed, request.num_steps)
    if request.source_seed is not None:
        noise[:1] = draw(request.source_seed, 1)
    return noise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """A batch's way from source to picture, on the CPU."""

    latents: Floats
    """``[B, K+1, ...]``."""
    timesteps: Floats
    levels: Floats
    logprobs: Floats
    """``[B, K]``; 0 where deterministic."""
    means: Mapping[int, Floats]
    """By step, where they are kept: ``[B, ...]``."""

    @classmethod
    def of(cls, rollout: Rollout) -> _Steps:
        return cls(
            latents=_numpy(torch.stack(rollout.latents, dim=1)),
            timesteps=_numpy(torch.stack(rollout.timesteps)),
            levels=_numpy(torch.stack(rollout.levels)),
            logprobs=_numpy(torch.stack(rollout.logprobs, dim=1)),
            means={step: _numpy(mean) for step, mean in rollout.means.items()},
        )


def _segment(job: PaintJob, steps: _Steps, row: int) -> DenoisingSegment:
    """Record one picture; log-probs and means of its trained steps only."""
    trained = list(job.plan.trained)
    actions = np.zeros(len(steps.timesteps), dtype=np.bool_)
    actions[trained] = True
    means = np.stack([steps.means[step][row] for step in trained]) if steps.means else None
    return DenoisingSegment(
        block=job.request.block,
        latents=steps.latents[row],
        timesteps=steps.timesteps,
        levels=steps.levels,
        behaviour_logprobs=np.where(actions, steps.logprobs[row], np.float32(0)),
        action_mask=actions,
        pictures=tuple(job.pictures),
        size_px=job.request.size_px,
        height_px=job.request.height_px,
        seed=job.request.seed,
        sampler=job.request.sampler,
        behaviour_step_mean=means,
    )


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
