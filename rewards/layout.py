"""Layout reward: whether a picture's regions have the colours that its prompt names, and are even."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.base import Failure, Need, Reward, Score
from rl.data.regions import REGIONS, Region, parse_regions, region_map
from rl.types import ChainView, Pixels


class LayoutReward(Reward):
    """``1 - d`` averaged over the prompt's regions, 0..1.

    d is the root mean square distance of the region's pixels to its colour, over all channels, 1 being 255 levels. As
    ``d^2 = (mean - colour)^2 + variance``, a region must have the right colour and be even. Every region counts alike,
    however large; pixels of none do not count. Prompts carry ``regions`` (``rl.data.regions``).
    """

    needs = frozenset({Need.FINAL_PICTURE, REGIONS})

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Measure the final pictures."""
        return [_score(chain) for chain in chains]


def _score(chain: ChainView) -> Score:
    assert chain.final_picture is not None  # it is needed
    try:
        regions = parse_regions(chain.prompt.reference[REGIONS])
        return layout_match(chain.final_picture, regions)
    except ValueError as error:
        return Failure(f"{chain.prompt.prompt_id}: {error}")


def layout_match(picture: Pixels, regions: Sequence[Region]) -> float:
    """Return how well a picture, ``uint8[H, W, 3]``, fits its regions, 0..1.

    Raises:
        ValueError: If a region is nowhere seen: hidden by others, or smaller than a pixel.
    """
    seen = region_map(regions, *picture.shape[:2])
    matches = []
    for index, region in enumerate(regions):
        pixels = picture[seen == index].astype(np.float64)
        if not len(pixels):
            raise ValueError(f"regions[{index}] has no pixel of {picture.shape[1]} x {picture.shape[0]}")
        distance = np.sqrt(np.mean(((pixels - region.colour) / 255.0) ** 2))
        matches.append(1.0 - distance)
    return float(np.mean(matches))
