"""Denoising policy inside a learner rank: log-probs of denoising steps, and the checkpoint.

Letters: B rows, K steps, A actions of the whole batch, n a latent's elements.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from actors.policies.base import CHUNKS, PolicyBatch, TrainablePolicy
from actors.policies.denoising.conditioning import Answers, unpack
from actors.policies.denoising.pipeline import Painting, PicturePipeline
from actors.policies.denoising.stepping import FLOW, Process, Replay
from configs.derive import denoising_policy
from configs.methods import Guard
from configs.schema import DenoisingPolicyConfig, LossConfig, PolicyConfig
from rl.denoising.samplers import preserving_stds, unit_stds
from rl.denoising.step_selection import sampler_spec
from rl.denoising.steps import gaussian_logprob
from rl.loss.actions import ActionScores
from rl.loss.surrogates import guard_step_weights
from rl.types import DenoisingSegment, Example


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPicture:
    """One row: a recorded picture and what its pipeline is called with."""

    segment: DenoisingSegment
    painting: Painting
    answers: Answers


class DenoisingPolicy(TrainablePolicy):
    """A pipeline's net, scored step by step; text encoders are not even loaded, and a VAE stays frozen.

    Args:
        directory: The checkpoint it came from.
        pipeline: Without text encoders.
        config: Says how pictures were sampled and what the loss needs besides log-probs.
        block_names: The chain's blocks in order.
    """

    def __init__(
        self,
        directory: Path,
        pipeline: PicturePipeline,
        config: DenoisingPolicyConfig,
        block_names: Sequence[str],
    ) -> None:
        super().__init__()
        self._config, self._directory = config, directory
        self._sampler = sampler_spec(config.rollout)
        self._block_names = tuple(block_names)
        self._pipeline = pipeline
        self.net: nn.Module = pipeline.net.requires_grad_(True)

    @classmethod
    def load(cls, directory: Path, config: PolicyConfig, *, block_names: Sequence[str]) -> Self:
        """Read the diffusers layout, in float32 whatever ``config.dtype`` is: the engine casts."""
        if not isinstance(config, DenoisingPolicyConfig):
            raise TypeError(
                f"want the configuration of a denoising policy, got that of a {config.kind} policy"
            )
        pipeline = PicturePipeline(directory, config.call, with_encoders=False, trusts_code=config.trust_code)
        return cls(pipeline.files.directory, pipeline, denoising_policy(config), block_names)

    # ------------------------------------------------------------------------ batches

    def collate(self, examples: Sequence[Example]) -> PolicyBatch:
        """Put picture segments of one shape key together.

        Raises:
            ValueError: If shapes differ, or one was not sampled as this policy scores; only noise levels may
                differ.
            TypeError: If there is another kind of segment among them.
        """
        # A group's pictures, and a picture's steps, share what they were told: it is unpacked once.
        told = {id(example.told): example.told for example in examples if example.told is not None}
        answers = {key: unpack(packed) for key, packed in told.items()}
        rows = [self._row(example, answers.get(id(example.told), ())) for example in examples]
        segments = [row.segment for row in rows]
        if len(shapes := {segment.latents.shape for segment in segments}) != 1:
            raise ValueError(f"a batch needs segments of one shape, got {sorted(shapes)}")
        trained = torch.from_numpy(np.stack([segment.action_mask for segment in segments]))
        scored = torch.stack(
            [_scored(example, mask) for example, mask in zip(examples, trained, strict=True)]
        )
        blocks = torch.tensor([self._block_names.index(segment.block) for segment in segments])
        return PolicyBatch(
            inputs={"rows": rows, "action_mask": scored, CHUNKS: int(scored.any(dim=0).sum().clamp(min=1))},
            behaviour_logprobs=torch.from_numpy(np.stack([s.behaviour_logprobs for s in segments])) * scored,
            action_mask=scored,
            block_of=torch.where(scored, blocks[:, None], -1),
            action_weights=self._action_weights(segments, trained),
            behaviour_step_mean=self._behaviour_step_mean(segments),
        )

    def _row(self, example: Example, answers: Answers) -> ScoredPicture:
        segment = example.segment
        if not isinstance(segment, DenoisingSegment):
            raise TypeError(f"want a DenoisingSegment, got {type(segment).__name__}")
        scored = replace(self._sampler, noise_level=segment.sampler.noise_level)
        if segment.sampler != scored:
            raise ValueError(f"block {segment.block} was sampled by {segment.sampler}, scored is {scored}")
        painting = Painting(
            words={"text": "", "question": ""},
            pictures=dict(zip(segment.pictures, example.pictures, strict=True)),
            size=(segment.height_px, segment.size_px),
            seed=segment.seed,
        )
        return ScoredPicture(segment=segment, painting=painting, answers=answers)

    def _action_weights(self, segments: Sequence[DenoisingSegment], trained: Tensor) -> Tensor | None:
        """Return the factors on each step's share of the loss, ``[B, K]``; None where all are 1."""
        levels = torch.from_numpy(np.stack([segment.levels for segment in segments]))
        factors = []
        if isinstance(self._config.loss.surrogate, Guard):
            factors.append(guard_step_weights(levels))
        if self._config.loss.step_weighting == "noise":
            noise = torch.tensor([segment.sampler.noise_level for segment in segments])
            factors.append(
                noise_weights(self._pipeline.files.process, self._sampler.kind, levels, noise, trained)
            )
        return functools.reduce(torch.mul, factors) if factors else None

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

    # ------------------------------------------------------------------------ scoring

    def forward(self, inputs: Mapping[str, Any]) -> ActionScores:
        """Score the trained steps, one call of the pipeline a step; other steps are not evaluated and get 0.

        All ranks make ``num_chunks`` calls: ZeRO gathers the net in each. Those that have nothing left to score repeat
        a step with weight 0.
        """
        mask: Tensor = inputs["action_mask"]
        device = mask.device
        self.move_beside(device)
        steps = torch.nonzero(mask.any(dim=0)).flatten().tolist()
        logprobs = torch.zeros(mask.shape, dtype=torch.float32, device=device)
        means, stds = list[tuple[Tensor, int, Tensor]](), torch.ones_like(logprobs)
        idle = torch.zeros((), device=device)
        for call in range(max(inputs[CHUNKS], len(steps))):
            step = steps[call] if call < len(steps) else 0
            rows = (
                torch.nonzero(mask[:, step]).flatten()
                if call < len(steps)
                else torch.zeros(1, dtype=torch.int64)
            )
            mean, std, scores = self._score([inputs["rows"][row] for row in rows.tolist()], step, device)
            if call >= len(steps):
                idle = idle + 0.0 * scores.sum()
                continue
            at = (rows.to(device), torch.full_like(rows, step, device=device))
            logprobs = logprobs.index_put(at, scores)
            if needs_step_means(self._config.loss):
                means.append((at[0], step, mean.flatten(1)))
                stds = stds.index_put(at, torch.where(std > 0, std, 1.0).flatten().detach())
        logprobs = logprobs + idle
        if not needs_step_means(self._config.loss):
            return ActionScores(logprobs=logprobs)
        spread = _spread(means, logprobs, inputs["rows"][0].segment.latents[0].size)
        return ActionScores(logprobs=logprobs, step_mean=spread, step_std=stds)

    def _score(
        self, rows: Sequence[ScoredPicture], step: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, deviation and log-prob of one step of some pictures."""
        first = rows[0].segment
        now, after = (
            torch.from_numpy(np.stack([row.segment.latents[index] for row in rows])).to(device)
            for index in (step, step + 1)
        )
        replay = Replay(
            kind=self._sampler.kind,
            latents=now,
            noise_level=torch.tensor([row.segment.sampler.noise_level for row in rows], device=device),
            timestep=torch.tensor(first.timesteps[step], device=device),
            levels=(torch.tensor(first.levels[step]), torch.tensor(first.levels[step + 1])),
        )
        mean, std = self._pipeline.score(
            [row.painting for row in rows], [row.answers for row in rows], replay
        )
        return mean, std, gaussian_logprob(after, mean, std, self._sampler.reduction)

    # ------------------------------------------------------------------------ weights

    @property
    def trained_net(self) -> nn.Module:
        """The net."""
        return self.net

    def move_beside(self, device: torch.device) -> None:
        """Move the autoencoder."""
        self._pipeline.to(device, with_net=False)

    @property
    def _prefix(self) -> str:
        return f"{self._pipeline.files.net}."

    def published(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the net's parameters under its component's name: ``unet.<name>``, ``transformer.<name>``."""
        for name, parameter in self.net.named_parameters():
            yield self._prefix + name, parameter

    def net_name(self, published: str) -> str:
        """Return a published parameter's name in the net."""
        return published.removeprefix(self._prefix)

    def export(self, directory: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the whole pipeline with ``weights`` in the net's place.

        Raises:
            RuntimeError: If names or shapes are not the net's.
        """
        folder = self._pipeline.files.net
        shutil.copytree(
            self._directory, directory, dirs_exist_ok=True, ignore=_other_weights(self._directory, folder)
        )
        net: Any = type(self.net).from_pretrained(self._directory / folder)  # type: ignore[attr-defined]  # diffusers'
        # Buffers stay those of the checkpoint: the engine has rounded its own.
        parameters = {name for name, _ in net.named_parameters()}
        buffers = {name: value for name, value in net.state_dict().items() if name not in parameters}
        net.load_state_dict(buffers | {self.net_name(name): value for name, value in weights.items()})
        net.save_pretrained(directory / folder)


def needs_step_means(loss: LossConfig) -> bool:
    """Whether a loss compares means of steps, not log-probs alone."""
    has_exact_kl = loss.kl_weight > 0 and loss.kl_estimator == "step_mean"
    return has_exact_kl or isinstance(loss.surrogate, Guard)


def noise_weights(process: Process, kind: str, levels: Tensor, noise_level: Tensor, mask: Tensor) -> Tensor:
    """Weigh steps by their deviations, with mean 1 over a picture's trained steps, ``[B, K]``.

    Args:
        process: What ``levels`` are.
        kind: Of the sampler.
        levels: ``[B, K+1]``.
        noise_level: ``[B]``.
        mask: Trained steps, ``[B, K]``.

    Source:
        He et al. 2025 (TempFlow-GRPO), noise-aware weighting: ``sigma_t sqrt(dt)``, normalised.
    """
    is_flow = process.family == FLOW
    std = (unit_stds(kind, levels, noise_level) if is_flow else preserving_stds(levels, noise_level)) * mask
    mean = std.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return std / torch.where(mean > 0, mean, 1.0)[:, None]


def _scored(example: Example, trained: Tensor) -> Tensor:
    """Return which trained steps of an example are scored, ``[K]``."""
    if example.steps is None:
        return trained
    chosen = torch.zeros_like(trained)
    chosen[list(example.steps)] = True
    return trained & chosen


def _spread(means: Sequence[tuple[Tensor, int, Tensor]], logprobs: Tensor, num: int) -> Tensor:
    """Put each step's means in their rows, ``[B, K, n]``; 0 elsewhere."""
    spread = logprobs.new_zeros((*logprobs.shape, num))
    for rows, step, values in means:
        spread = spread.index_put((rows, torch.full_like(rows, step)), values)
    return spread


def _other_weights(source: Path, net: str) -> Any:
    """Leave out of a copy the net's old weights, whose files may be named differently."""

    def ignore(folder: str, names: list[str]) -> list[str]:
        is_net = Path(folder) == source / net
        return [name for name in names if is_net and name != "config.json"]

    return ignore
