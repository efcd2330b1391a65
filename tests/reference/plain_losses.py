"""The loss of a whole optimizer step in a few lines of plain torch, one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.methods import CISPO, GSPO, PPO
from configs.schema import PolicyConfig


@dataclass(frozen=True, kw_only=True)
class PlainSequence:
    """One sequence's trained actions, ``[n]`` each."""

    logprobs: Tensor
    entropy: Tensor
    advantages: Tensor
    behaviour: Tensor
    proximal: Tensor
    reference: Tensor


def step_loss(config: PolicyConfig, sequences: Sequence[PlainSequence], max_actions: int) -> Tensor:
    """Mean over the step, as the aggregation has it."""
    terms = [_terms(config, sequence) for sequence in sequences]
    if config.loss.aggregation == "action_mean":
        return torch.cat(terms).mean()
    if config.loss.aggregation == "sequence_mean":
        return torch.stack([term.mean() for term in terms]).mean()
    return torch.cat(terms).sum() / (len(terms) * max_actions)


def _terms(config: PolicyConfig, one: PlainSequence) -> Tensor:
    is_corrected = config.loss.correction.kind == "truncate"
    old = one.proximal if is_corrected else one.behaviour
    gain = _surrogate(config, one, old)
    if is_corrected:
        gain = gain * torch.clamp((one.proximal - one.behaviour).exp(), max=config.loss.correction.cap)
    gap = one.logprobs - one.reference
    kl = {"k2": gap**2 / 2, "k3": (-gap).exp() - 1 + gap}[config.loss.kl_estimator]
    return -gain + config.loss.kl_weight * kl - config.loss.entropy_weight * one.entropy


def _surrogate(config: PolicyConfig, one: PlainSequence, old: Tensor) -> Tensor:
    method, advantages = config.loss.surrogate, one.advantages
    if isinstance(method, CISPO):
        weight = (one.logprobs - old).exp().clamp(1 - method.clip_low, 1 + method.clip_high)
        return weight.detach() * advantages * one.logprobs
    ratio = (one.logprobs - old).exp()
    if isinstance(method, GSPO):
        whole = (one.logprobs - old).mean().exp().detach()
        ratio = whole * one.logprobs.exp() / one.logprobs.exp().detach()
    else:
        assert isinstance(method, PPO)
    return torch.minimum(
        ratio * advantages, ratio.clamp(1 - method.clip_low, 1 + method.clip_high) * advantages
    )
