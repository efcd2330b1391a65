"""Painter: one diffusers pipeline that paints, takes weights and proves them. One thread does everything with it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from actors.policies.denoising.policy import NET
from actors.policies.denoising.sampler import Painted, PaintJob, load_pipeline, paint
from actors.rollout.worker import RolloutSpec
from actors.shared.lora import adapted_names, merged, scale_of
from actors.weights.buckets import Received, unpack
from actors.weights.inbox import LoadTimes
from configs.derive import denoising_policy
from configs.methods import Adapter, Guard
from rl.denoising.step_selection import sampler_spec
from rl.errors import WeightSyncError
from rl.restoration.names import DEGRADED
from rl.spans import span
from rl.types import PREVIOUS, Example, ImageRequest, Manifest

CANARY_SIZES_PX = (16, 32, 64)
"""Degraded photo, picture before, and picture painted by the canary."""
CANARY_NUM_STEPS = 3


class Painter:
    """A pipeline with its weights.

    Args:
        spec: Of the worker.

    Raises:
        OSError: If the directory holds no pipeline.
        ValueError: If it holds another.
    """

    def __init__(self, spec: RolloutSpec) -> None:
        self._spec = spec
        self._keep_step_means = isinstance(spec.config.loss.surrogate, Guard)
        self._pipeline = load_pipeline(spec.directory, getattr(torch, spec.config.dtype), spec.device)
        self._start: dict[str, Tensor] = {}
        """The starting weights that adapters change, kept once they do."""

    def paint(self, jobs: Sequence[PaintJob]) -> list[Painted]:
        """Paint jobs of one key as one batch."""
        return paint(self._pipeline, jobs, keep_step_means=self._keep_step_means)

    def move(self, device: torch.device) -> None:
        """Move everything to a device."""
        self._pipeline.to(device)

    def load(self, manifest: Manifest, buckets: Sequence[Received]) -> LoadTimes:
        """Load a publication.

        Raises:
            WeightSyncError: If a bucket is damaged, or names or shapes are not the net's. Nothing has changed then.
        """
        begin = time.perf_counter()
        new = dict(unpack(manifest, buckets))
        checked = time.perf_counter()
        own = {f"{NET}.{name}": parameter for name, parameter in self._pipeline.unet.named_parameters()}
        lora = self._spec.config.learner.lora
        if isinstance(lora, Adapter):
            new = self._merged(own, new, scale_of(lora))
            own = {name: parameter for name, parameter in own.items() if name in new}
        _check_shapes(manifest, own, new)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(new[name])
        return LoadTimes(check_s=checked - begin, load_s=time.perf_counter() - checked)

    def _merged(
        self, own: Mapping[str, Tensor], adapters: Mapping[str, Tensor], scale: float
    ) -> dict[str, Tensor]:
        """Add adapters to the starting weights of their layers."""
        for name in adapted_names(adapters):
            if name not in self._start and name in own:
                self._start[name] = own[name].detach().clone()
        return dict(merged(self._start.items(), adapters, scale))

    @span("canary")
    def canary(self) -> Example:
        """Paint the same fixed picture by the configured sampler, with one before it."""
        small, middle, large = CANARY_SIZES_PX
        rng = np.random.default_rng(self._spec.seed)
        pictures = {
            name: rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            for name, size in ((DEGRADED, small), (PREVIOUS, middle))
        }
        request = ImageRequest(
            request_id="canary",
            block=self._spec.block_names[-1],
            size_px=large,
            num_steps=CANARY_NUM_STEPS,
            sampler=sampler_spec(denoising_policy(self._spec.config).rollout),
            pictures={name: index for index, name in enumerate(pictures)},
            text="canary",
            seed=self._spec.seed,
        )
        job = PaintJob(request=request, pictures=pictures)
        return Example(segment=self.paint([job])[0].segment, pictures=tuple(pictures.values()))


def _check_shapes(manifest: Manifest, own: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    what = f"policy {manifest.policy} version {manifest.version}"
    if own.keys() != new.keys():
        odd = sorted(own.keys() ^ new.keys())
        raise WeightSyncError(
            f"{what}: {len(odd)} tensors are on one side only, e.g. {odd[0]}; do learner and rollout worker have "
            "the same checkpoint?"
        )
    for name, parameter in own.items():
        if parameter.shape != new[name].shape:
            raise WeightSyncError(
                f"{what}: {name} is {list(new[name].shape)}, the net has {list(parameter.shape)}"
            )
