"""What every named method's paper (or released code) computes, in plain Python, with the paper's own constants.

Nothing here reads the table of names: a test builds a configuration from the name alone and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.methods import CISPO, GMPO, GSPO, PPO, DualClip, OnPolicy, TokenMask, TruncatedImportance
from tests.reference import advantage as ref
from tests.reference.advantage import Groups

Rewards = Sequence[Groups]
Advantage = Callable[[Rewards, Sequence[float], Sequence[Sequence[int]]], Groups]
"""Of rewards, their weights, and the number of actions of each chain."""


def of_sum(function: Callable[[Groups, float], Groups], eps: float = 1e-4) -> Advantage:
    """The weighted rewards are one number before anything else."""
    return lambda rewards, weights, lengths: function(ref.weighted_sum(rewards, weights), eps)


def added_up(rewards: Rewards, weights: Sequence[float], lengths: object) -> Groups:
    """Each reward is normalised in its group; the advantages are weighted and added."""
    return ref.weighted_sum([ref.grpo(groups, 1e-8) for groups in rewards], weights)


def over_tokens(groups: Groups, lengths: Sequence[Sequence[int]]) -> Groups:
    """Write every chain's value once a token, normalise the long list, and read each chain's value again."""
    tokens = [
        value
        for group, sizes in zip(groups, lengths, strict=True)
        for value, size in zip(group, sizes, strict=True)
        for _ in range(size)
    ]
    at, found = 0, []
    normalised = ref.normalise(tokens, 1e-4)
    for sizes in lengths:
        row = []
        for size in sizes:
            row.append(normalised[at])
            at += size
        found.append(row)
    return found


def reinforce_pp(rewards: Rewards, weights: Sequence[float], lengths: Sequence[Sequence[int]]) -> Groups:
    return over_tokens(ref.weighted_sum(rewards, weights), lengths)


def reinforce_pp_baseline(
    rewards: Rewards, weights: Sequence[float], lengths: Sequence[Sequence[int]]
) -> Groups:
    return over_tokens(ref.dr_grpo(ref.weighted_sum(rewards, weights), 0.0), lengths)


def dapo(rewards: Rewards, weights: Sequence[float], lengths: Sequence[Sequence[int]]) -> Groups:
    """The overlong penalty is part of the reward. Room for 100 tokens, the last 20 are the cache."""
    penalty = [[ref.soft_overlong(length, 100, 20) for length in sizes] for sizes in lengths]
    return ref.grpo(ref.weighted_sum([*rewards, penalty], [*weights, 1.0]), 1e-4)


def within(bound: float, advantage: Advantage) -> Advantage:
    return lambda *args: [[max(-bound, min(bound, a)) for a in group] for group in advantage(*args)]


ADVANTAGES: dict[str, Advantage | None] = {
    "grpo": of_sum(ref.grpo),
    "dr_grpo": of_sum(ref.dr_grpo),
    "rloo": of_sum(ref.rloo),
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "dapo": dapo,
    "dual_clip": None,
    "gspo": of_sum(ref.grpo),
    "cispo": of_sum(ref.grpo),
    "gmpo": of_sum(ref.grpo),
    "gdpo": lambda rewards, weights, lengths: ref.gdpo(rewards, weights, 1e-4),
    "tis": None,
    "icepop": None,
    "flow_grpo": within(5.0, of_sum(ref.flow_grpo)),
    "flow_grpo_fast": within(5.0, of_sum(ref.flow_grpo)),
    "dance_grpo": within(5.0, added_up),
    "mix_grpo": within(5.0, added_up),
    "flow_cps": within(5.0, of_sum(ref.flow_grpo)),
    "ddpo": within(5.0, of_sum(ref.grpo)),
    "grpo_guard": None,
    "temp_flow": within(5.0, of_sum(ref.grpo)),
    "realsr_r1_code": of_sum(ref.grpo),
    "realsr_r1_paper": of_sum(ref.grpo),
}
"""By name; None: the paper is about something else, and the configuration's own advantage stays."""


@dataclass(frozen=True)
class TokenLoss:
    """A method's loss of tokens."""

    surrogate: object
    aggregation: str = "action_mean"
    kl: tuple[float, str] | None = None
    """Weight and estimator; None: the paper has none, or leaves it to its user."""
    correction: object = None


PPO_02 = PPO(clip_low=0.2, clip_high=0.2)
TOKEN_LOSSES: dict[str, TokenLoss] = {
    "grpo": TokenLoss(PPO_02, "sequence_mean", (0.04, "k3")),
    "dr_grpo": TokenLoss(PPO_02, "constant"),
    "rloo": TokenLoss(OnPolicy(), "constant"),
    "reinforce_pp": TokenLoss(PPO_02),
    "reinforce_pp_baseline": TokenLoss(PPO_02),
    "dapo": TokenLoss(PPO(clip_low=0.2, clip_high=0.28)),
    "dual_clip": TokenLoss(DualClip(clip_low=0.2, clip_high=0.2, bound=3.0)),
    "gspo": TokenLoss(GSPO(clip_low=3e-4, clip_high=4e-4), "sequence_mean"),
    "cispo": TokenLoss(CISPO(clip_low=1.0, clip_high=0.28)),
    "gmpo": TokenLoss(GMPO(clip_low=0.4, clip_high=0.4), "sequence_mean"),
    "gdpo": TokenLoss(PPO_02),
    "tis": TokenLoss(PPO_02, correction=TruncatedImportance(cap=2.0)),
    "icepop": TokenLoss(PPO_02, correction=TokenMask(low=0.5, high=5.0)),
    "realsr_r1_code": TokenLoss(OnPolicy(), "sequence_mean"),
    "realsr_r1_paper": TokenLoss(PPO_02, "sequence_mean"),
}
"""By name; the others are about denoising steps."""


@dataclass(frozen=True)
class Denoising:
    """A method's pictures."""

    sampler: str | None = None
    """None: the paper takes whichever there is."""
    noise_level: float | None = None
    num_trained: int | None = None
    """Of ten steps."""
    starts: frozenset[int] | None = None
    """Where the trained steps may begin; None: anywhere, picture by picture."""
    shared_noise: bool = False
    clip: float | None = None
    """None: no bound."""
    kl: tuple[float, str] | None = None
    step_weighting: str = "uniform"


DENOISING: dict[str, Denoising] = {
    "flow_grpo": Denoising("flow_grpo", 0.7, 9, frozenset({0}), clip=1e-4, kl=(0.004, "step_mean")),
    "flow_grpo_fast": Denoising("flow_grpo", 0.8, 2, frozenset(range(6)), shared_noise=True, clip=1e-5),
    "dance_grpo": Denoising("dance", 0.3, 5, None, shared_noise=True, clip=1e-4),
    "mix_grpo": Denoising("flow_grpo", 0.7, 4, frozenset({0}), shared_noise=True, clip=1e-4),
    "flow_cps": Denoising("cps", 0.7, 9, frozenset({0}), clip=1e-4),
    "ddpo": Denoising("ddim", 1.0, 9, frozenset({0}), clip=1e-4),
    "grpo_guard": Denoising(clip=2e-6),
    "temp_flow": Denoising(
        "flow_grpo", 0.7, 9, frozenset({0}), clip=1e-4, kl=(0.004, "step_mean"), step_weighting="noise"
    ),
    "realsr_r1_code": Denoising(),
    "realsr_r1_paper": Denoising(clip=1e-4),
}
"""By name; the others are about tokens."""
