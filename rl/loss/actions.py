"""Actions and their scores: the tensors a loss is computed from.

Letters: B rows, T actions (padded), n elements of a latent. An action is a token or a denoising step; nothing
here asks which. A row is one whole sequence (a chain's token stream, or one picture's steps), so whatever is
said of a sequence is computed from its row alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are held within this many nats, so that ``exp`` and its gradient stay finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionScores:
    """What a policy says of a batch's actions."""

    logprobs: Tensor
    """``[B, T]`` of the sampling distribution, nats, float32, gradient flows; arbitrary but finite where
    ``action_mask`` is False."""
    entropy: Tensor | None = None
    """``[B, T]`` nats; gradient flows only where the entropy bonus needs it; None where it is not cheap."""
    step_mean: Tensor | None = None
    """Denoising: ``[B, T, n]`` mean of each step, n latent elements, gradient flows; None where nobody asked for it."""
    step_std: Tensor | None = None
    """Denoising: ``[B, T]`` deviation of each step, no gradient; comes with ``step_mean``."""

    def detached(self, device: torch.device | None = None) -> ActionScores:
        """Return the same without gradient, on ``device`` if one is given."""

        def detach(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.detach().to(device or value.device)

        return ActionScores(
            logprobs=self.logprobs.detach().to(device or self.logprobs.device),
            entropy=detach(self.entropy),
            step_mean=detach(self.step_mean),
            step_std=detach(self.step_std),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What is known of a micro-batch's actions before a policy scores them, on the policy's device."""

    mask: Tensor
    """``[B, T]`` bool: True where an action is trained; False in padding rows."""
    advantages: Tensor
    """``[B, T]``."""
    block_of: Tensor
    """``[B, T]`` int: index of the chain's block of each action; anything where not ``mask``."""
    behaviour: ActionScores
    """Of the distribution that was sampled from: log-probs, and step means where somebody asked for them."""
    weights: Tensor | None = None
    """``[B, T]`` factors on each action's surrogate; None weighs all alike."""


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` in float32 or wider, exactly 0 and without gradient where not ``mask``.

    Everything the loss reads goes through here before any arithmetic, so that NaN and infinity behind the
    mask touch neither value nor gradient.

    Args:
        values: ``[B, T]`` or ``[B, T, n]``.
        mask: ``[B, T]`` bool.

    Raises:
        ValueError: If shapes differ.
    """
    if values.shape[:2] != mask.shape:
        raise ValueError(f"shapes differ: {list(values.shape)}, mask {list(mask.shape)}")
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(mask.reshape(mask.shape + (1,) * (values.dim() - 2)), wide, 0.0)


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over each row's actions, ``[B, 1]``; 0 in rows without any.

    Args:
        values: ``[B, T]``, 0 where not ``mask``.
        mask: ``[B, T]`` bool.
    """
    return values.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
