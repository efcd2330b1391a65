"""Pictures painted as a rollout worker does, and what a learner is given of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.policies.denoising.checkpoint import read_pipeline
from actors.policies.denoising.pipeline import PicturePipeline, load_pipeline
from actors.policies.denoising.sampler import Painted, PaintJob, Sampler
from rl.types import Example


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline itself, with its own scheduler."""
    return load_pipeline(read_pipeline(directory), dtype, with_encoders=True, trusts_code=True)


def paint(
    directory: Path,
    jobs: Sequence[PaintJob],
    call: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    keep_step_means: bool = False,
) -> list[Painted]:
    """Paint jobs, those of one key as one batch."""
    pipeline = PicturePipeline(directory, call or {}, dtype=dtype, trusts_code=True)
    sampler = Sampler(pipeline, keep_step_means=keep_step_means)
    ready = [sampler.ready(job) for job in jobs]
    painted: dict[int, Painted] = {}
    for key in {job.key for job in ready}:
        rows = [row for row, job in enumerate(ready) if job.key == key]
        painted |= dict(zip(rows, sampler.paint([ready[row] for row in rows]), strict=True))
    return [painted[row] for row in range(len(jobs))]


def example(job: PaintJob, painted: Painted) -> Example:
    return Example(segment=painted.segment, pictures=tuple(job.pictures.values()), told=painted.told)


def paint_examples(directory: Path, jobs: Sequence[PaintJob], *args: Any, **options: Any) -> list[Example]:
    return [example(j, p) for j, p in zip(jobs, paint(directory, jobs, *args, **options), strict=True)]
