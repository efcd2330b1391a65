"""A surrogate, a baseline and a sampler of a user's own, as they would stand in a package of theirs."""

import numpy as np
import torch

from rl.denoising.samplers import Sampler, sde_mean
from rl.loss.surrogates import SurrogateTerms


def soft_ppo(inputs, *, temperature=1.0):
    """A bare tensor: a sigmoid in place of the clip."""
    return inputs.advantages * 4 / temperature * torch.sigmoid(temperature * (inputs.log_ratio.exp() - 1))


def ppo_again(inputs, *, bound):
    """The full answer, written as PPO's."""
    ratio = inputs.log_ratio.exp()
    held = ratio.clamp(1 - bound, 1 + bound)
    return SurrogateTerms(
        value=torch.minimum(ratio * inputs.advantages, held * inputs.advantages),
        is_clipped_low=(ratio < 1 - bound) & (inputs.advantages < 0),
        is_clipped_high=(ratio > 1 + bound) & (inputs.advantages > 0),
    )


def returns_a_number(inputs):
    return 3.0


def takes_something_else(logprobs, old_logprobs):
    return logprobs - old_logprobs


def median(values, groups, weights):
    return np.asarray([np.median(values[groups == group]) for group in groups])


def one_number(values, groups, weights):
    return values.mean()


def takes_values_only(values):
    return values


def half_std(sigma, sigma_next, noise_level):
    return 0.5 * noise_level * torch.sqrt(sigma - sigma_next)


HALF_DANCE = Sampler(half_std, sde_mean)
BROKEN = Sampler(lambda sigma: sigma, sde_mean)
