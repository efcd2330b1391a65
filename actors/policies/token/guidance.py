"""Guidance (classifier-free) of a policy that writes tokens: the same few lines for the engine and the learner.

The context without its condition keeps every id and every position: its pictures are replaced by grey ones of
their sizes, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rl.types import Pixels

GREY = 128
"""Value of every element of a picture that shows nothing."""


def without_content(pictures: Sequence[Pixels]) -> list[Pixels]:
    """Return mid-grey pictures of the same sizes, which cost as many tokens at the same positions."""
    return [np.full_like(picture, GREY) for picture in pictures]


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Move logits away from what would be written without seeing: ``u + g (c - u)``.

    Args:
        conditional: Logits given the context c, ``[n, V]``; -inf where an id is forbidden. Gradient flows.
        unconditional: Logits given the context without its pictures' content u, ``[n, V]``. Gradient flows.
        scale: Guidance g, ``[n]``; 1 leaves c, more follows the pictures more.

    Returns:
        Logits ``[n, V]``, -inf where ``conditional`` is.

    Source:
        Ho and Salimans 2022, *Classifier-Free Diffusion Guidance*, eq. 6 with ``g = 1 + w``; for logits of a
        language model Sanchez et al. 2023, *Stay on topic with Classifier-Free Guidance*, section 2.
    """
    mixed = unconditional + scale[:, None] * (conditional - unconditional)
    return mixed.masked_fill(conditional == -torch.inf, -torch.inf)
