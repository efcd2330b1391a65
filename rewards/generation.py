"""Generation reward: what visual experts think of the restored picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.derive import final_px
from configs.schema import BlockConfig
from configs.suggest import suggest
from rewards.base import Failure, Need, Reward, Score
from rewards.experts.catalogue import catalogue
from rewards.experts.expert import Expert
from rl.errors import ConfigError
from rl.restoration.names import TRUTH, truth_of
from rl.types import ChainView, Floats

_MARGIN = 1.0
"""How far, in units of its range, an expert counts beyond either end."""
_KEYS = ("range", "weights", "weight", "options")
ENSEMBLES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "realsr_r1": {
        "topiq_nr": {"range": [0.0, 1.0]},
        "musiq": {"range": [0.0, 100.0]},
        "maniqa-pipal": {"range": [0.0, 1.0]},
        "clipiqa": {"range": [0.0, 1.0]},
    },
}
"""Experts that go by one word. ``realsr_r1`` is the released code's (topiq_nr + musiq / 100 + maniqa-pipal + clipiqa)
/ 4."""


class GenerationReward(Reward):
    """Weighted mean of visual experts on the final picture, each oriented and rescaled.

    An expert's score is mapped so that the bad end of its range is 0 and the good end 1 (metrics where
    smaller is better are turned round), and held within one more range on either side: an ordinary score is
    never clipped, and an expert that extrapolates wildly cannot buy the whole reward. A chain without a
    final picture gets 0.

    ``experts: realsr_r1`` is the ensemble of RealSR-R1's released code: ``topiq_nr``, ``musiq`` over 100,
    ``maniqa-pipal`` and ``clipiqa``, with equal weights. Differs from it in the margin: that code clips nothing.
    """

    needs: frozenset[str] = frozenset({Need.FINAL_PICTURE})
    unit = "share of the experts' range"
    low = -_MARGIN
    high = 1.0 + _MARGIN

    def __init__(
        self, experts: str | Mapping[str, Mapping[str, Any] | None], *, device: str | None = None
    ) -> None:
        """Choose the experts.

        Args:
            experts: By pyiqa's name: ``range`` [low, high] of its scores (default: what the JSON file
                beside the weights says, then what pyiqa declares), ``weights`` file, ``weight`` in the mean
                (default 1), ``options`` of the metric. Or the name of an ensemble, one of ``ENSEMBLES``.
            device: torch device; None takes a GPU where the process has one.

        Raises:
            ConfigError: If there is no expert, or an entry is malformed.
        """
        if isinstance(experts, str):
            experts = _ensemble(experts)
        if not experts or not isinstance(experts, Mapping):
            raise ConfigError("experts: name at least one pyiqa metric, as in experts: {musiq: {}}")
        self._entries = {name: _checked_entry(name, entry) for name, entry in experts.items()}
        self._experts = {
            name: Expert(name, weights=entry.get("weights"), device=device, options=entry.get("options"))
            for name, entry in self._entries.items()
        }

        known = catalogue()
        if any(name in known and known[name].full_reference for name in self._experts):
            self.needs = self.needs | {TRUTH}

    @property
    def missing(self) -> float:
        """Score of a chain without a final picture: the bad end of the experts' ranges."""
        return 0.0

    def check(self) -> None:
        """Refuse experts that pyiqa does not know, whose weights are not here, or whose scores have no range."""
        for name, expert in self._experts.items():
            expert.check()
            if expert.is_set_up:
                self._check_range(name)

    def check_chain(self, chain: Mapping[str, BlockConfig]) -> None:
        """Refuse experts that have no score of pictures as small as the chain's last."""
        size_px = final_px(chain)
        for expert in self._experts.values() if size_px else ():
            expert.check(size_px)

    def setup(self) -> None:
        """Load the experts.

        Raises:
            ConfigError: If one is unknown, lacks weights, or has no range.
        """
        for name, expert in self._experts.items():
            expert.setup()
            self._check_range(name)

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Return the experts' mean a chain."""
        pictures = [chain.final_picture for chain in chains]
        truths = [truth_of(chain.prompt) for chain in chains]
        shown = [picture for picture in pictures if picture is not None]
        known = [truth for truth in truths if truth is not None]
        shares = {
            name: self._rescale(name, expert.score(shown, known)) for name, expert in self._experts.items()
        }
        return [self._mean({name: float(s[i]) for name, s in shares.items()}) for i in range(len(chains))]

    def _mean(self, shares: Mapping[str, float]) -> Score:
        """Return the weighted mean, or the experts that gave none."""
        broken = [name for name, share in shares.items() if not math.isfinite(share)]
        if broken:
            return Failure(f"no finite score from {', '.join(broken)}")
        weights = {name: float(self._entries[name].get("weight", 1.0)) for name in shares}
        return sum(weights[name] * share for name, share in shares.items()) / sum(weights.values())

    def _rescale(self, name: str, values: Floats) -> NDArray[np.float64]:
        return rescale(values, self._range(name) or (0.0, 1.0), lower_better=self._experts[name].lower_better)

    def _check_range(self, name: str) -> None:
        if self._range(name) is None:
            raise ConfigError(f"experts.{name}: its scores have no declared range; give range: [low, high]")

    def _range(self, name: str) -> tuple[float, float] | None:
        declared = self._entries[name].get("range")
        return (declared[0], declared[1]) if declared is not None else self._experts[name].score_range


def rescale(
    values: Floats, score_range: tuple[float, float], *, lower_better: bool, margin: float = _MARGIN
) -> NDArray[np.float64]:
    """Map raw scores to shares of their range, larger is better; NaN and infinity stay what they are.

    Args:
        values: An expert's scores, ``[n]``.
        score_range: Its lowest and highest, in its unit.
        lower_better: Turn the range round.
        margin: How far beyond 0 and 1 a share is held, in shares.
    """
    low, high = score_range[::-1] if lower_better else score_range
    share = (values.astype(np.float64) - low) / (high - low)
    return np.where(np.isfinite(share), np.clip(share, -margin, 1.0 + margin), share)


def _ensemble(name: str) -> Mapping[str, Mapping[str, Any]]:
    if name in ENSEMBLES:
        return ENSEMBLES[name]
    if name in catalogue():
        raise ConfigError(f"experts: {name} is one metric; write experts: {{{name}: {{}}}}")
    raise ConfigError(
        f"experts: no ensemble {name!r}{suggest(name, ENSEMBLES)}; there is {', '.join(ENSEMBLES)}"
    )


def _checked_entry(name: str, entry: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(entry, Mapping | None):
        raise ConfigError(f"experts.{name}: want a mapping of {', '.join(_KEYS)}, got {entry!r}")
    checked = dict(entry or {})
    for key in checked:
        if key not in _KEYS:
            raise ConfigError(f"experts.{name}: unknown key {key!r}{suggest(key, _KEYS)}")
    declared = checked.get("range")
    if declared is not None and not _is_range(declared):
        raise ConfigError(f"experts.{name}.range: want [low, high] with low < high, got {declared}")
    weight = checked.get("weight", 1.0)
    if not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ConfigError(f"experts.{name}.weight: want a number above 0, got {weight!r}")
    return checked


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, Sequence) and all(isinstance(end, int | float) for end in value)
    return numbers and len(value) == 2 and -math.inf < value[0] < value[1] < math.inf
