"""Schedulers of rollout and learner: stock ones whose ``step`` draws and records, or scores and ends the call.

Every diffusers pipeline ends a step of its loop in ``scheduler.step(prediction, t, latents)``, with guidance, packing,
conditioning and signs already applied. So a pipeline with one of these in the place of its own scheduler needs no code
of ours: rolled out it is the stock pipeline, and scored it is the same call from a recorded latent, with one step.

Letters: B rows, K steps; a latent has any rank, rows first.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rl.compat.torchvision import ensure_torchvision
from rl.denoising.samplers import ddim_step, step_mean_std
from rl.denoising.steps import gaussian_logprob, preserving_level, x0_from_noise, x0_from_v, x0_from_velocity
from rl.errors import RolloutError
from rl.types import SamplerSpec

FLOW, PRESERVING = "flow", "preserving"
"""Families of ``rl.denoising.steps``: levels are sigmas of a flow, or shares of the variance that are signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What a scheduler's numbers mean: how a prediction becomes the next latent's mean and deviation."""

    family: str
    """``flow`` or ``preserving``."""
    prediction: str
    """diffusers' ``prediction_type``; a flow's is a velocity."""

    def mean_std(
        self,
        prediction: Tensor,
        x: Tensor,
        level: Tensor,
        level_next: Tensor,
        noise_level: Tensor | float,
        kind: str,
    ) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the next latent, float32; gradient flows through ``prediction``.

        Args:
            prediction: Of the net, guided; shape of ``x``.
            x: Latent at ``level``.
            level: Scalar: sigma, or the share of signal.
            level_next: Of the next latent.
            noise_level: Of the sampler, ``[B]`` or one; 0 is deterministic.
            kind: Name of the sampler.
        """
        if self.family == FLOW:
            x0 = x0_from_velocity(x, prediction, level)
            return step_mean_std(kind, x, x0, level, level_next, noise_level)
        signal, noise = preserving_level(level, x)
        if self.prediction == "epsilon":
            x0 = x0_from_noise(x, prediction, signal, noise)
        elif self.prediction == "v_prediction":
            x0 = x0_from_v(x, prediction, signal, noise)
        else:
            x0 = prediction
        return ddim_step(x, x0, level, level_next, noise_level)


class StepTaker(ABC):
    """What ``step`` does with the net's prediction."""

    def schedule(self) -> tuple[Tensor, Tensor] | None:
        """Return timesteps ``[K]`` and levels ``[K+1]`` to use in the place of the scheduler's own, or None."""
        return None

    @abstractmethod
    def take(self, scheduler: Any, prediction: Tensor, index: int, sample: Tensor) -> Tensor:
        """Return the next latent, float32.

        Args:
            scheduler: Has ``process``, ``timesteps`` and ``levels``.
            prediction: Of the net, guided.
            index: Of the step in the schedule.
            sample: The loop's latent, as the pipeline keeps it.
        """


class LatentsSeen(Exception):  # noqa: N818  # no error: it ends a loop
    """Ends a call at its first step; carries the latents' shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.shape = shape


class Probe(StepTaker):
    """Ends the call at its first step."""

    def take(self, scheduler: Any, prediction: Tensor, index: int, sample: Tensor) -> Tensor:
        """Raise ``LatentsSeen``."""
        raise LatentsSeen(tuple(sample.shape))


@dataclass(kw_only=True)
class Rollout(StepTaker):
    """Draws the random steps of B pictures from given noise, and records all steps."""

    sampler: SamplerSpec
    random: frozenset[int]
    """Steps that draw noise."""
    noise: Tensor
    """``[B, K, ...]``: the initial latents, then what each step but the last may draw."""
    kept: frozenset[int] = frozenset()
    """Steps whose means are kept."""
    latents: list[Tensor] = field(default_factory=list)
    """Float32, from the initial ones to the pictures'."""
    logprobs: list[Tensor] = field(default_factory=list)
    """``[B]`` a step; 0 where deterministic."""
    means: dict[int, Tensor] = field(default_factory=dict)
    timesteps: list[Tensor] = field(default_factory=list)
    levels: list[Tensor] = field(default_factory=list)
    """One more than steps."""

    def take(self, scheduler: Any, prediction: Tensor, index: int, sample: Tensor) -> Tensor:
        """Draw the next latents.

        Raises:
            RolloutError: If the pipeline changes latents between steps, which cannot be scored.
        """
        step = len(self.timesteps)
        if not self.latents:
            self.latents.append(self.noise[:, 0].to(sample.device, torch.float32))
            self.levels.append(scheduler.levels[index])
        x, now, after = self.latents[-1], scheduler.levels[index], scheduler.levels[index + 1]
        _check_unchanged(sample, x, step)
        level = self.sampler.noise_level if step in self.random else 0.0
        process: Process = scheduler.process
        mean, std = process.mean_std(prediction, x, now, after, level, self.sampler.kind)
        is_random = bool(level) and step + 1 < self.noise.shape[1]
        following = mean + std * self.noise[:, step + 1].to(mean.device) if is_random else mean
        if step in self.kept:
            self.means[step] = mean
        self.logprobs.append(gaussian_logprob(following, mean, std, self.sampler.reduction))
        self.latents.append(following)
        self.timesteps.append(scheduler.timesteps[index])
        self.levels.append(after)
        return following


def _check_unchanged(sample: Tensor, x: Tensor, step: int) -> None:
    """Allow for one rounding to the pipeline's own dtype."""
    tolerance = 1e-6 if sample.dtype == torch.float32 else 2.0**-7
    if sample.shape != x.shape or not torch.allclose(sample.float(), x, rtol=tolerance, atol=tolerance):
        raise RolloutError(
            f"the pipeline changes its latents between denoising steps (before step {step}); "
            "such a step has no log-prob that a learner could compute"
        )


class Scored(Exception):  # noqa: N818  # no error: it ends a loop
    """Ends a call at its only step; carries mean and deviation of the next latents."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std


@dataclass(frozen=True, kw_only=True)
class Replay(StepTaker):
    """Scores one recorded step of B pictures: ends the call with mean and deviation, gradient attached."""

    kind: str
    """Of the sampler."""
    latents: Tensor
    """``[B, ...]`` before the step, float32: the pipeline may have rounded its own copy."""
    noise_level: Tensor
    """``[B]``."""
    timestep: Tensor
    """Scalar."""
    levels: tuple[Tensor, Tensor]
    """Before and after the step."""

    def schedule(self) -> tuple[Tensor, Tensor]:
        """Return the one step."""
        return self.timestep[None], torch.stack(self.levels)

    def take(self, scheduler: Any, prediction: Tensor, index: int, sample: Tensor) -> Tensor:
        """Raise ``Scored``."""
        now, after = (level.to(self.latents.device) for level in self.levels)
        mean_std = scheduler.process.mean_std(
            prediction, self.latents, now, after, self.noise_level, self.kind
        )
        raise Scored(*mean_std)


# --------------------------------------------------------------------------------- schedulers


def process_of(config: Mapping[str, Any]) -> Process:
    """Say what a scheduler's configuration (``scheduler_config.json``) means.

    Raises:
        ValueError: If it is neither a flow's nor a variance-preserving model's.
    """
    name, prediction = str(config.get("_class_name", "")), config.get("prediction_type", "epsilon")
    if config.get("invert_sigmas") or config.get("stochastic_sampling"):
        raise ValueError(f"{name} with invert_sigmas or stochastic_sampling has no step of a known density")
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or prediction == "flow_prediction":
        return Process(family=FLOW, prediction="velocity")
    if not ({"beta_schedule", "trained_betas"} & config.keys()):
        raise ValueError(f"{name} is neither of the flow-matching family nor has it alphas_cumprod")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(
            f"{name} predicts {prediction!r}; want epsilon, v_prediction, sample or a flow's velocity"
        )
    if config.get("rescale_betas_zero_snr") and prediction == "epsilon":
        raise ValueError(
            f"{name} begins at pure noise (rescale_betas_zero_snr), where an epsilon model knows nothing"
        )
    return Process(family=PRESERVING, prediction=str(prediction))


def stepping_scheduler(config: Mapping[str, Any]) -> Any:
    """Make the scheduler that takes a shipped one's place; its ``taker`` is set before each call.

    Args:
        config: Of the shipped scheduler.

    Raises:
        ValueError: As in ``process_of``.
    """
    process = process_of(config)
    flow, preserving = _classes()
    if process.family == FLOW:
        fixed = {"shift": config.get("flow_shift", config.get("shift", 1.0))}
    else:
        fixed = {"clip_sample": False, "thresholding": False, "set_alpha_to_one": True}
    made = flow if process.family == FLOW else preserving
    known = inspect.signature(made).parameters
    scheduler = made(**{name: value for name, value in {**config, **fixed}.items() if name in known})
    scheduler.process = process
    return scheduler


@cache
def _classes() -> tuple[type[Any], type[Any]]:
    """Make the two classes once; diffusers is heavy to import."""
    ensure_torchvision()
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    class FlowStepping(_Stepping, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # diffusers is untyped
        def set_timesteps(
            self,
            num_inference_steps: int | None = None,
            device: Any = None,
            sigmas: Any = None,
            mu: float | None = None,
            timesteps: Any = None,
        ) -> None:
            if not self.uses_given_schedule(device):
                super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
                self.levels = self.sigmas

    class PreservingStepping(_Stepping, DDIMScheduler):  # type: ignore[misc]  # diffusers is untyped
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            if not self.uses_given_schedule(device):
                super().set_timesteps(num_inference_steps, device)
                shares = self.alphas_cumprod[self.timesteps.cpu()]
                self.levels = torch.cat([shares, torch.ones(1)]).float().to(self.timesteps.device)

    return FlowStepping, PreservingStepping


class _Stepping:
    """The ``step`` that both share."""

    process: Process
    taker: StepTaker
    timesteps: Tensor
    levels: Tensor
    num_inference_steps: int

    def uses_given_schedule(self, device: Any) -> bool:
        """Take the step taker's schedule where it has one."""
        given = self.taker.schedule()
        if given is None:
            return False
        self.timesteps, self.levels = (tensor.to(device) for tensor in given)
        if self.process.family == FLOW:
            self.sigmas = self.levels
        self.num_inference_steps = len(self.timesteps)
        return True

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Hand the prediction to the step taker.

        Without ``eta`` and ``generator`` in it, pipelines pass none.
        """
        at = torch.as_tensor(timestep, device=self.timesteps.device).flatten()[0]
        index = int((self.timesteps.double() - at.double()).abs().argmin())
        following = self.taker.take(self, model_output, index, sample)
        return SimpleNamespace(prev_sample=following) if return_dict else (following,)
