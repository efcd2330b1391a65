"""Selection of denoising steps: which are random, which are trained, and what a group shares.

Decided where requests are made, from seeds and the training's progress alone, so that a resumed run, and work done
again, come to the same. Standard library and numpy only.
"""

from __future__ import annotations

import numpy as np

from configs.methods import AllSteps, RandomShare, RandomSteps, SlidingWindow, TrainedSteps
from configs.schema import DenoisingRollout
from rl.seeding import derive_seed
from rl.types import SamplerSpec, StepPlan


def sampler_spec(rollout: DenoisingRollout, noise_level: float | None = None) -> SamplerSpec:
    """Say how pictures are sampled; ``noise_level`` overrides the policy's own (0: deterministic)."""
    return SamplerSpec(
        kind=rollout.sampler,
        noise_level=rollout.noise_level if noise_level is None else noise_level,
        reduction=rollout.logprob_reduction,
    )


def all_steps(num_steps: int) -> StepPlan:
    """Every step but the last is random and trained."""
    return _in_a_row(0, num_steps - 1)


def select_steps(
    method: TrainedSteps, num_steps: int, *, picture_seed: int, group_seed: int, grpo_step: int
) -> StepPlan:
    """Choose the random and the trained steps of one picture.

    Args:
        method: Of the policy.
        num_steps: Denoising steps K; the last is never random.
        picture_seed: Of the picture: ``RandomShare`` draws from it.
        group_seed: Of its group and block: ``RandomSteps`` draws from it, so that a group's pictures agree
            and can be painted together.
        grpo_step: Steps of training so far: ``SlidingWindow`` moves with it.

    Source:
        RandomShare: Xue et al. 2025 (DanceGRPO). SlidingWindow: Li et al. 2025 (MixGRPO). RandomSteps:
        Flow-GRPO-Fast, in Flow-GRPO's released code.
    Differs from the paper:
        The window's last move is shorter where the stride does not divide the way, so that every step gets
        its turn.
    """
    num_random = num_steps - 1
    count = method.num_trained(num_random)
    match method:
        case AllSteps():
            return all_steps(num_steps)
        case RandomShare():
            order = np.random.default_rng(picture_seed).permutation(num_random)
            trained = tuple(sorted(order[:count].tolist()))
            return StepPlan(random=tuple(range(num_random)), trained=trained)
        case SlidingWindow():
            return _in_a_row(window_start(method, num_random, grpo_step), count)
        case RandomSteps():
            last_start = min(num_random - count, int(method.start_within * num_steps))
            return _in_a_row(int(np.random.default_rng(group_seed).integers(last_start + 1)), count)


def picture_draws(
    rollout: DenoisingRollout, num_steps: int, *, picture_seed: int, group_seed: int, grpo_step: int | None
) -> tuple[int | None, StepPlan | None]:
    """Return what of a picture is drawn besides its own noise.

    Args:
        rollout: Its ``shared_noise`` and ``trained_steps`` count.
        num_steps: Denoising steps K.
        picture_seed: Of the picture.
        group_seed: The same for all pictures of a group and block, and no other.
        grpo_step: As in ``select_steps``; None outside of training, where all steps are random.

    Returns:
        Seed of the initial noise, None for the picture's own; and its steps, None for all.

    Source:
        Shared initial noise: Xue et al. 2025 (DanceGRPO); He et al. 2025 (TempFlow-GRPO), seed groups.
    """
    source_seed = derive_seed(group_seed, "source") if rollout.shared_noise else None
    if grpo_step is None:
        return source_seed, None
    plan = select_steps(
        rollout.trained_steps,
        num_steps,
        picture_seed=derive_seed(picture_seed, "steps"),
        group_seed=derive_seed(group_seed, "steps"),
        grpo_step=grpo_step,
    )
    return source_seed, plan


def window_start(method: SlidingWindow, num_random: int, grpo_step: int) -> int:
    """Return the window's first step among ``num_random``; past the last it starts again at 0."""
    last = num_random - method.num_trained(num_random)
    num_places = -(-last // method.stride) + 1
    return min(grpo_step // method.every % num_places * method.stride, last)


def _in_a_row(start: int, count: int) -> StepPlan:
    steps = tuple(range(start, start + count))
    return StepPlan(random=steps, trained=steps)
