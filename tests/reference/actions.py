"""Random micro-batches of actions in float64, for tests of the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from configs.methods import CISPO, GMPO, GSPO, PPO, DualClip, Guard, OnPolicy
from rl.loss.actions import Actions, ActionScores
from tests.reference.loss import normal_logprob

METHODS = (
    PPO(clip_low=0.2, clip_high=0.28),
    DualClip(clip_low=0.2, clip_high=0.2, bound=1.5),
    GSPO(clip_low=0.05, clip_high=0.08),
    CISPO(clip_low=0.3, clip_high=0.28),
    GMPO(clip_low=0.1, clip_high=0.2),
    OnPolicy(),
)
GUARD = Guard(clip_low=0.01, clip_high=0.02)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A micro-batch: what the policy says now, what it was, and the rest."""

    scores: ActionScores
    actions: Actions
    reference: ActionScores
    latents: Tensor
    """``[B, T, n]`` what the steps arrived at."""


def listed(*tensors: Tensor) -> list[list[list[float]]]:
    return [tensor.tolist() for tensor in tensors]


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Case:
    """Rows of denoising steps (``n`` elements), whose log-probs serve as those of tokens too."""
    rows, columns, n = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    spread = draw(st.sampled_from([0.0, 0.05, 0.6]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    std = 0.3 + normal(rows, columns).abs()
    behaviour_mean = normal(rows, columns, n)
    step_mean = behaviour_mean + spread * normal(rows, columns, n)
    latents = behaviour_mean + std[..., None] * normal(rows, columns, n)
    mask = torch.rand(rows, columns, generator=generator) < 0.7
    advantages = normal(rows, columns) * (torch.rand(rows, columns, generator=generator) < 0.9)
    if draw(st.booleans()):
        advantages = advantages[:, :1].expand(rows, columns).contiguous()

    # As in a chain: blocks ascend, -1 stands between them.
    block_of = torch.randint(0, 4, (rows, columns), generator=generator).sort(dim=1).values
    block_of = torch.where(mask, block_of, -1)

    def score(mean: Tensor) -> ActionScores:
        logprobs = [
            [
                normal_logprob(latents[b, t].tolist(), mean[b, t].tolist(), float(std[b, t]))
                for t in range(columns)
            ]
            for b in range(rows)
        ]
        return ActionScores(
            logprobs=torch.tensor(logprobs, dtype=dtype),
            entropy=std.log() + 0.2 * normal(rows, columns),
            step_mean=mean,
            step_std=std,
        )

    return Case(
        scores=score(step_mean),
        actions=Actions(mask=mask, advantages=advantages, block_of=block_of, behaviour=score(behaviour_mean)),
        reference=score(step_mean + 0.2 * normal(rows, columns, n)),
        latents=latents,
    )


def trained_actions(scores: ActionScores) -> Actions:
    """All trained, with advantage 1, sampled by the policy itself."""
    ones = torch.ones_like(scores.logprobs)
    return Actions(
        mask=ones.bool(), advantages=ones, block_of=torch.zeros_like(ones).long(), behaviour=scores
    )


def with_leaf(case: Case) -> tuple[Tensor, ActionScores]:
    """Scores whose log-probs are a leaf."""
    leaf = case.scores.logprobs.clone().requires_grad_()
    return leaf, replace(case.scores, logprobs=leaf)


def pick(scores: ActionScores, rows: Tensor | slice) -> ActionScores:
    """Some rows."""
    parts = (scores.entropy, scores.step_mean, scores.step_std)
    entropy, step_mean, step_std = (None if part is None else part[rows] for part in parts)
    return ActionScores(
        logprobs=scores.logprobs[rows], entropy=entropy, step_mean=step_mean, step_std=step_std
    )


def pick_actions(actions: Actions, rows: Tensor | slice) -> Actions:
    return Actions(
        mask=actions.mask[rows],
        advantages=actions.advantages[rows],
        block_of=actions.block_of[rows],
        behaviour=pick(actions.behaviour, rows),
        weights=None if actions.weights is None else actions.weights[rows],
    )
