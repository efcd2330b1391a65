"""Correlations between rewards, within groups: do they pull the same way?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rl.types import Bools

Member = tuple[NDArray[np.float64], Bools]
"""Values of one quantity in one group and where they count, ``[G]`` each."""
_ROUNDING = 1e-6
"""Root mean squares below this, relative to the largest value, are rounding."""


def correlations(groups: Sequence[Mapping[str, Member]]) -> dict[tuple[str, str], float]:
    """Return Pearson's correlation of every two quantities over chains, each chain taken against its group's mean.

    Within groups, because that is what advantages are made of: two rewards may rise and fall together from photo to
    photo, and yet one is bought with the other among the chains of each photo.

    Args:
        groups: Every quantity of every group. Chains that either of two did not judge do not count for the two:
            a chain without a picture is at the low end of every reward of pictures, and says nothing of them.

    Returns:
        By pair, in order of the first group's names; pairs where one does not differ within groups are left out.
    """
    by_pair = {}
    for first, second in combinations(groups[0] if groups else (), 2):
        pairs = [_centred(group[first], group[second]) for group in groups]
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        norms = [float(np.sqrt(side @ side)) for side in (a, b)]
        sizes = [max(_largest(group[name]) for group in groups) for name in (first, second)]
        if all(
            norm > _ROUNDING * max(1.0, size) * np.sqrt(a.size)
            for norm, size in zip(norms, sizes, strict=True)
        ):
            by_pair[first, second] = float(np.clip(a @ b / (norms[0] * norms[1]), -1.0, 1.0))
    return by_pair


def _centred(first: Member, second: Member) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    both = first[1] & second[1]
    a, b = first[0][both].astype(np.float64), second[0][both].astype(np.float64)
    return (a - a.mean(), b - b.mean()) if a.size else (a, b)


def _largest(member: Member) -> float:
    values, valid = member
    return float(np.abs(values[valid]).max(initial=0.0))
