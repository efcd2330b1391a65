"""Denoising policy inside a learner rank: log-probs of denoising steps, and the checkpoint.

Letters: B rows, K steps, A actions of the whole batch, C h w a latent, n its elements.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from actors.policies.base import PolicyBatch, TrainablePolicy
from actors.policies.denoising.image_model import (
    Condition,
    encode_texts,
    make_condition,
    predict_guided,
    tokenize,
    with_empty_text,
)
from actors.policies.denoising.sampler import load_pipeline
from configs.derive import denoising_policy
from configs.methods import Guard
from configs.schema import DenoisingPolicyConfig, LossConfig, PolicyConfig
from rl.denoising.samplers import Source, step_mean_std, unit_stds
from rl.denoising.step_selection import sampler_spec
from rl.denoising.steps import gaussian_logprob
from rl.loss.actions import ActionScores
from rl.loss.surrogates import guard_step_weights
from rl.restoration.names import DEGRADED
from rl.types import PREVIOUS, DenoisingSegment, Example

NET = "unet"
"""Folder of the trained net in the checkpoint, and prefix of its published names."""


class DenoisingPolicy(TrainablePolicy):
    """A flow model in pixel space, scored step by step; its text encoder stays frozen.

    Args:
        directory: The checkpoint it came from.
        pipeline: A ``RestorationPipeline``.
        config: Says how pictures were sampled and what the loss needs besides log-probs.
        block_names: The chain's blocks in order.
    """

    net_prefix = f"{NET}."

    def __init__(
        self, directory: Path, pipeline: Any, config: DenoisingPolicyConfig, block_names: Sequence[str]
    ) -> None:
        super().__init__()
        self._config = config
        self._sampler = sampler_spec(config.rollout)
        self._no_text = tokenize(pipeline.tokenizer, "")
        self._directory = directory
        self._block_names = tuple(block_names)
        self._patch = int(pipeline.config.patch)
        self._source_std = float(pipeline.config.source_std)
        self.unet: nn.Module = pipeline.unet.requires_grad_(True)
        self.text_encoder: nn.Module = pipeline.text_encoder.requires_grad_(False)

    @classmethod
    def load(cls, directory: Path, config: PolicyConfig, *, block_names: Sequence[str]) -> Self:
        """Read the diffusers layout, in float32 whatever ``config.dtype`` is: the engine casts."""
        if not isinstance(config, DenoisingPolicyConfig):
            raise TypeError(
                f"want the configuration of a denoising policy, got that of a {config.kind} policy"
            )
        pipeline = load_pipeline(directory, torch.float32, torch.device("cpu"))
        return cls(directory, pipeline, denoising_policy(config), block_names)

    def collate(self, examples: Sequence[Example]) -> PolicyBatch:
        """Stack picture segments of one size and number of steps.

        Raises:
            ValueError: If shapes differ, or one was not sampled as this policy scores; only noise levels may
                differ.
            TypeError: If there is another kind of segment among them.
        """
        segments = [_denoising(example) for example in examples]
        shapes = {segment.latents.shape for segment in segments}
        if len(shapes) != 1:
            raise ValueError(f"a batch needs segments of one shape, got {sorted(shapes)}")
        for segment in segments:
            self._check_sampler(segment)
        scale = self._sampler.guidance_scale
        ids, text_mask = with_empty_text([segment.text_ids for segment in segments], self._no_text, scale)
        num = len(segments)
        seen = [dict(zip(e.segment.pictures, e.pictures, strict=True)) for e in examples]
        condition = make_condition(
            [pictures[DEGRADED] for pictures in seen],
            [pictures.get(PREVIOUS) for pictures in seen],
            (segments[0].latents.shape[2], segments[0].latents.shape[3]),
            (torch.zeros(num, 1, 1), text_mask[:num]),
        )
        action_mask = _stack([segment.action_mask for segment in segments])
        blocks = torch.tensor([self._block_names.index(segment.block) for segment in segments])
        inputs = {
            "latents": _stack([segment.latents for segment in segments]),
            "sigmas": _stack([segment.sigmas for segment in segments]),
            "noise_level": torch.tensor([segment.sampler.noise_level for segment in segments]),
            "action_mask": action_mask,
            "degraded": condition.degraded,
            "previous": condition.previous,
            "flags": condition.flags,
            "text_ids": ids,
            "text_mask": text_mask,
        }
        return PolicyBatch(
            inputs=inputs,
            behaviour_logprobs=_stack([segment.behaviour_logprobs for segment in segments]),
            action_mask=action_mask,
            block_of=torch.where(action_mask, blocks[:, None], -1),
            action_weights=self._action_weights(inputs),
            behaviour_step_mean=self._behaviour_step_mean(segments),
        )

    def _check_sampler(self, segment: DenoisingSegment) -> None:
        scored = replace(self._sampler, noise_level=segment.sampler.noise_level)
        if segment.sampler != scored:
            raise ValueError(f"block {segment.block} was sampled by {segment.sampler}, scored is {scored}")

    def _action_weights(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return the factors on each step's share of the loss, ``[B, K]``; None where all are 1."""
        factors = []
        if isinstance(self._config.loss.surrogate, Guard):
            factors.append(guard_step_weights(inputs["sigmas"]))
        if self._config.loss.step_weighting == "noise":
            factors.append(self._noise_weights(inputs))
        return functools.reduce(torch.mul, factors) if factors else None

    def _noise_weights(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Weigh steps by their deviations, with mean 1 over a picture's trained steps, ``[B, K]``.

        Source:
            He et al. 2025 (TempFlow-GRPO), noise-aware weighting: ``sigma_t sqrt(dt)``, normalised.
        """
        mask = inputs["action_mask"]
        std = unit_stds(self._sampler.kind, inputs["sigmas"], inputs["noise_level"]) * mask
        mean = std.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return std / torch.where(mean > 0, mean, 1.0)[:, None]

    def _behaviour_step_mean(self, segments: Sequence[DenoisingSegment]) -> Tensor | None:
        """Spread the recorded means of trained steps over all steps, ``[B, K, n]``; 0 elsewhere."""
        if not isinstance(self._config.loss.surrogate, Guard):
            return None
        spread = np.zeros(
            (len(segments), len(segments[0].action_mask), segments[0].latents[0].size), np.float32
        )
        for row, segment in enumerate(segments):
            means, num = segment.behaviour_step_mean, int(segment.action_mask.sum())
            if means is None and num:
                raise ValueError(
                    f"block {segment.block}: the surrogate needs behaviour step means, none recorded"
                )
            if means is not None:
                spread[row, segment.action_mask] = means.reshape(num, -1)
        return torch.from_numpy(spread)

    def forward(self, inputs: Mapping[str, Tensor]) -> ActionScores:
        """Score the trained steps, all in one pass of the net; other steps are not evaluated and get 0."""
        latents, sigmas, action_mask = inputs["latents"], inputs["sigmas"], inputs["action_mask"]
        row, step = torch.nonzero(action_mask, as_tuple=True)
        if len(row) == 0:  # every rank must touch the same modules
            row = step = torch.zeros(1, dtype=torch.int64, device=action_mask.device)
        with torch.no_grad():
            (text, text_mask), guidance = encode_texts(
                self.text_encoder, inputs["text_ids"], inputs["text_mask"], self._sampler.guidance_scale
            )
        condition = Condition(
            degraded=inputs["degraded"][row],
            previous=inputs["previous"][row],
            flags=inputs["flags"][row],
            text=text[row],
            text_mask=text_mask[row],
        )
        x, sigma = latents[row, step], sigmas[row, step]
        clean = predict_guided(self.unet, x, sigma, condition, guidance, self._patch)
        mean, std = step_mean_std(
            self._sampler.kind,
            x,
            clean,
            sigma,
            sigmas[row, step + 1],
            inputs["noise_level"][row],
            Source(condition.degraded, self._source_std),
        )
        scores = gaussian_logprob(latents[row, step + 1], mean, std, self._sampler.reduction)
        empty = torch.zeros(action_mask.shape, dtype=torch.float32, device=scores.device)
        logprobs = empty.index_put((row, step), scores)
        if not needs_step_means(self._config.loss):
            return ActionScores(logprobs=logprobs)
        means = mean.flatten(1)
        std = torch.where(std > 0, std, 1.0).flatten()
        return ActionScores(
            logprobs=logprobs,
            step_mean=empty[:, :, None].repeat(1, 1, means.shape[1]).index_put((row, step), means),
            step_std=torch.ones_like(empty).index_put((row, step), std),
        )

    @property
    def trained_net(self) -> nn.Module:
        """The net; the text encoder is frozen."""
        return self.unet

    def published(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the net's parameters as ``unet.<name>``."""
        for name, parameter in self.unet.named_parameters():
            yield f"{NET}.{name}", parameter

    def export(self, directory: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the whole pipeline with ``weights`` in the net's place.

        Raises:
            RuntimeError: If names or shapes are not the net's.
        """
        shutil.copytree(self._directory, directory, dirs_exist_ok=True)
        net = type(self.unet).from_config(self.unet.config)  # type: ignore[attr-defined]  # a diffusers model
        net.load_state_dict({name.removeprefix(f"{NET}."): value for name, value in weights.items()})
        net.save_pretrained(directory / NET)


def needs_step_means(loss: LossConfig) -> bool:
    """Whether a loss compares means of steps, not log-probs alone."""
    has_exact_kl = loss.kl_weight > 0 and loss.kl_estimator == "step_mean"
    return has_exact_kl or isinstance(loss.surrogate, Guard)


def _denoising(example: Example) -> DenoisingSegment:
    if not isinstance(example.segment, DenoisingSegment):
        raise TypeError(f"want a DenoisingSegment, got {type(example.segment).__name__}")
    return example.segment


def _stack(arrays: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """Stack arrays to a tensor of its own memory (they may be read-only)."""
    return torch.from_numpy(np.stack(arrays))
