"""Painter: one diffusers pipeline that paints, takes weights and proves them. One thread does everything with it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from actors.policies.denoising.pipeline import PicturePipeline
from actors.policies.denoising.sampler import Painted, PaintJob, ReadyJob, Sampler
from actors.rollout.worker import RolloutSpec
from actors.shared.lora import adapted_names, merged, scale_of
from actors.weights.buckets import Received, unpack
from actors.weights.inbox import LoadTimes
from configs.derive import denoising_policy
from configs.methods import Adapter, Guard
from rl.denoising.step_selection import sampler_spec
from rl.errors import WeightSyncError
from rl.spans import span
from rl.types import Example, ImageRequest, Manifest

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
        self._spec, policy = spec, denoising_policy(spec.config)
        self._pipeline = PicturePipeline(
            spec.directory, policy.call, dtype=getattr(torch, policy.dtype), trusts_code=policy.trust_code
        )
        self._pipeline.to(spec.device)
        self._sampler = Sampler(self._pipeline, keep_step_means=isinstance(policy.loss.surrogate, Guard))
        self._start: dict[str, Tensor] = {}
        """The starting weights that adapters change, kept once they do."""

    def ready(self, job: PaintJob) -> ReadyJob:
        """Have the text encoders answer for a job."""
        return self._sampler.ready(job)

    def paint(self, jobs: Sequence[ReadyJob]) -> list[Painted]:
        """Paint jobs of one key as one batch."""
        return self._sampler.paint(jobs)

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
        prefix = self._pipeline.files.net
        own = {f"{prefix}.{name}": parameter for name, parameter in self._pipeline.net.named_parameters()}
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
        """Paint the same fixed picture as the chain's last block, by the configured sampler and from every picture."""
        spec, policy = self._spec, denoising_policy(self._spec.config)
        name, block = [(n, b) for n, b in spec.chain.items() if b.kind == "image"][-1]
        size = (block.height_px or block.size_px, block.size_px)
        rng = np.random.default_rng(spec.seed)
        pictures = {
            shown: rng.integers(0, 256, (*self._pipeline.size_taken(shown, size), 3), dtype=np.uint8)
            for shown in self._pipeline.picture_names()
        }
        request = ImageRequest(
            request_id="canary",
            block=name,
            size_px=size[1],
            height_px=size[0],
            num_steps=CANARY_NUM_STEPS,
            sampler=sampler_spec(policy.rollout),
            pictures={shown: index for index, shown in enumerate(pictures)},
            words={"text": "canary", "question": "canary"},
            seed=spec.seed,
        )
        painted = self.paint([self.ready(PaintJob(request=request, pictures=pictures))])[0]
        return Example(segment=painted.segment, pictures=tuple(pictures.values()), told=painted.told)


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
