"""Generation reward: what visual experts think of the restored picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rewards.base import Need, Reward, Score
from rewards.experts import Expert
from rewards.load import suggest
from rl.errors import ConfigError
from rl.types import ChainView

_MARGIN = 1.0
"""How far, in units of its range, an expert counts beyond either end."""
_KEYS = ("range", "weights", "weight", "options")


class GenerationReward(Reward):
    """Weighted mean of visual experts on the final picture, each oriented and rescaled.

    An expert's score is mapped so that the bad end of its range is 0 and the good end 1 (metrics where
    smaller is better are turned round), and held within one more range on either side: an ordinary score is
    never clipped, and an expert that extrapolates wildly cannot buy the whole reward. A chain without a
    final picture gets 0.

    Differs from the paper: the released code divides MUSIQ by 100, leaves the others alone, averages four
    experts with equal weights and clips nothing. That is ``topiq_nr``, ``musiq``, ``maniqa-pipal`` and
    ``clipiqa`` here, with pyiqa's own ranges.
    """

    needs = frozenset({Need.FINAL_PICTURE})
    unit = "share of the experts' range"
    low = -_MARGIN
    high = 1.0 + _MARGIN

    def __init__(self, experts: Mapping[str, Mapping[str, Any] | None], *, device: str | None = None) -> None:
        """Choose the experts.

        Args:
            experts: By pyiqa's name: ``range`` [low, high] of its scores (default: what the JSON file
                beside the weights says, then what pyiqa declares), ``weights`` file, ``weight`` in the mean
                (default 1), ``options`` of the metric.
            device: torch device; None takes a GPU where the process has one.

        Raises:
            ConfigError: If there is no expert, or an entry is malformed.
        """
        if not experts:
            raise ConfigError("experts: name at least one pyiqa metric")
        self._entries = {name: _checked_entry(name, entry or {}) for name, entry in experts.items()}
        self._experts = {
            name: Expert(name, weights=entry.get("weights"), device=device, options=entry.get("options"))
            for name, entry in self._entries.items()
        }

    @property
    def missing(self) -> float:
        """Score of a chain without a final picture: the bad end of the experts' ranges."""
        return 0.0

    def setup(self) -> None:
        """Load the experts.

        Raises:
            ConfigError: If one is unknown, lacks weights, or has no range.
        """
        for name, expert in self._experts.items():
            expert.setup()
            if self._range(name) is None:
                raise ConfigError(
                    f"experts.{name}: its scores have no declared range; give range: [low, high]"
                )
        if any(expert.full_reference for expert in self._experts.values()):
            self.needs = self.needs | {Need.TRUTH}

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Return the experts' mean a chain."""
        pictures = [chain.final_picture for chain in chains]
        truths = [chain.reference.photo for chain in chains]
        total = np.zeros(len(chains), dtype=np.float64)
        for name, expert in self._experts.items():
            shown = [p for p in pictures if p is not None]
            known = [t for t in truths if t is not None] if expert.full_reference else []
            total += self._weight(name) * self._rescale(name, expert.score(shown, known))
        total /= sum(self._weight(name) for name in self._experts)
        return [float(value) for value in total]

    def _rescale(self, name: str, values: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
        low, high = self._range(name) or (0.0, 1.0)
        if self._experts[name].lower_better:
            low, high = high, low
        share = (values.astype(np.float64) - low) / (high - low)
        return np.clip(share, -_MARGIN, 1.0 + _MARGIN)

    def _range(self, name: str) -> tuple[float, float] | None:
        declared = self._entries[name].get("range")
        return (declared[0], declared[1]) if declared is not None else self._experts[name].score_range

    def _weight(self, name: str) -> float:
        return float(self._entries[name].get("weight", 1.0))


def _checked_entry(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(f"experts.{name}: unknown key {key!r}{suggest(key, _KEYS)}")
    declared = entry.get("range")
    if declared is not None and not (len(declared) == 2 and declared[0] < declared[1]):
        raise ConfigError(f"experts.{name}.range: want [low, high] with low < high, got {declared}")
    if float(entry.get("weight", 1.0)) <= 0:
        raise ConfigError(f"experts.{name}.weight: want more than 0, got {entry['weight']}")
    return dict(entry)
