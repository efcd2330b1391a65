"""Consistency reward: whether the restored picture, made small again, still is the photo it was made from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.base import Need, Reward, Score
from rl.data.images import resize
from rl.errors import ConfigError
from rl.restoration.names import DEGRADED, degraded_of
from rl.types import ChainView, Pixels

HIGHEST_DB = 60.0
"""PSNR that counts as equal: a root mean square difference of a quarter of a grey level."""


class ConsistencyReward(Reward):
    """PSNR in dB, of the final picture scaled down to the degraded photo's size, against the degraded photo.

    What is done, exactly: the final picture is scaled down with the antialiased bicubic filter of the data pipeline,
    to the degraded photo's height and width; both are blurred with a Gaussian of ``blur_px`` degraded pixels; the
    mean squared difference over all pixels and the three channels of RGB becomes dB, held within 0 and 60. It needs
    no truth.

    What is not done: the blur, noise and compression of the photo are not applied again. A chain carries their names,
    not their recorded parameters, and real photographs have no record. A good restoration removes the photo's noise,
    and loses dB for it: the blur keeps that small. Bicubic enlargement scores best of all, so give it a small weight
    beside rewards that want detail; it is there to catch restorations of another scene.

    Source:
        LR-PSNR in Lugmayr et al. 2021, NTIRE challenge on learning the super-resolution space; the blur is ours.
    """

    needs = frozenset({Need.FINAL_PICTURE, DEGRADED})
    unit = "dB"
    low = 0.0
    high = HIGHEST_DB

    def __init__(self, blur_px: float = 1.0) -> None:
        """Choose how much is forgiven.

        Args:
            blur_px: Standard deviation of the blur, degraded pixels; 0 compares noise too.

        Raises:
            ConfigError: If it is negative or no number.
        """
        if not isinstance(blur_px, int | float) or not 0 <= blur_px < math.inf:
            raise ConfigError(f"blur_px: want a number of at least 0, got {blur_px!r}")
        self.blur_px = float(blur_px)

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Return the PSNR a chain, dB."""
        return [
            self._score_one(chain.final_picture, degraded_of(chain.prompt))
            for chain in chains
            if chain.final_picture is not None
        ]

    def _score_one(self, final: Pixels, degraded: Pixels) -> float:
        height, width, _ = degraded.shape
        again = resize(final, height, width)
        difference = self._blurred(again.astype(np.float64) - degraded.astype(np.float64))
        error = float(np.mean(np.square(difference)))
        db = HIGHEST_DB if error == 0.0 else 10.0 * math.log10(255.0**2 / error)
        return min(max(db, 0.0), HIGHEST_DB)

    def _blurred(self, difference: NDArray[np.float64]) -> NDArray[np.float64]:
        """Blur the difference, which is the difference of the blurred: the filter is linear."""
        if self.blur_px == 0.0:
            return difference
        from scipy.ndimage import gaussian_filter

        blurred: NDArray[np.float64] = gaussian_filter(
            difference, (self.blur_px, self.blur_px, 0), mode="nearest"
        )
        return blurred
