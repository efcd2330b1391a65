"""The smallest picture a visual expert can judge: measured, because pyiqa does not say."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from rewards.pyiqa_metric import quiet
from rl.errors import ConfigError
from rl.types import Pixels

if TYPE_CHECKING:
    from rewards.experts import Expert

logger = logging.getLogger(__name__)

SMALLEST_PX, LARGEST_PX = 4, 512
"""Where the search for the smallest picture begins and ends."""


def check_size(expert: Expert, size_px: int) -> None:
    """Judge a made-up square picture of one size.

    Raises:
        ConfigError: If that fails; says what the smallest size is.
    """
    why = _trouble(expert, size_px)
    if not why:
        return
    smallest = smallest_px(expert)
    remedy = "give it other pictures, or take it out"
    if smallest is not None and smallest > size_px:
        remedy = f"its smallest is {smallest} px: raise the last image block's size_px, or take it out"
    raise ConfigError(f"expert {expert.name} cannot judge pictures of {size_px} px ({why}); {remedy}")


def smallest_px(expert: Expert) -> int | None:
    """Search for the smallest square picture that gets a finite score, assuming that larger ones do too.

    Args:
        expert: Set up.

    Returns:
        Its edge in pixels, at least ``SMALLEST_PX``; None if none up to ``LARGEST_PX`` gets one.
    """
    good = SMALLEST_PX
    while _trouble(expert, good):
        good *= 2
        if good > LARGEST_PX:
            return None
    bad = good // 2 if good > SMALLEST_PX else SMALLEST_PX - 1
    while good - bad > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if _trouble(expert, middle) else (middle, bad)
    return good


def _trouble(expert: Expert, size_px: int) -> str:
    """Say why an expert has no score of a picture of this size, or ''."""
    truth = _picture(size_px, noise=4.0)
    try:
        with quiet():
            value = float(expert.score([_picture(size_px, noise=12.0)], [truth])[0])
    except Exception as error:  # the border to pyiqa, whose metrics raise anything
        logger.debug("%s failed on %d px", expert.name, size_px, exc_info=error)
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return "" if math.isfinite(value) else f"its score is {value}"


def _picture(size_px: int, *, noise: float) -> Pixels:
    """Paint waves with some noise: no metric divides by the contrast of a flat picture."""
    rows, columns = np.mgrid[0:size_px, 0:size_px] / 16.0
    waves = np.stack([np.sin(rows + columns), np.cos(rows * 2), np.sin(columns * 3 - rows)], axis=-1)
    spread = np.random.default_rng(0).normal(0.0, noise, waves.shape)
    return np.clip(127.5 + 70.0 * waves + spread, 0, 255).astype(np.uint8)
