"""Generation reward: what visual experts think of the restored picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from configs.derive import final_px
from configs.errors import prefixed
from configs.schema import BlockConfig
from configs.suggest import suggest
from rewards.base import Failure, Need, Reward, Score
from rewards.experts.catalogue import catalogue
from rewards.experts.expert import Expert
from rl.errors import ConfigError
from rl.restoration.names import TRUTH, truth_of
from rl.types import ChainView

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
        entries = {name: _checked_entry(name, entry) for name, entry in experts.items()}
        self._weights = {name: float(entry.pop("weight", 1.0)) for name, entry in entries.items()}
        self._experts: dict[str, Expert] = {}
        for name, entry in entries.items():
            with prefixed(f"experts.{name}."):
                self._experts[name] = Expert(name, device=device, **entry)
        known = catalogue()
        if any(name in known and known[name].full_reference for name in self._experts):
            self.needs = self.needs | {TRUTH}

    @property
    def missing(self) -> float:
        """Score of a chain without a final picture: the bad end of the experts' ranges."""
        return 0.0

    def check(self) -> None:
        """Refuse experts that pyiqa does not know, whose weights are not here, or whose scores have no range."""
        for expert in self._experts.values():
            expert.check()
            expert.check_range()

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
        for expert in self._experts.values():
            expert.setup()
            expert.check_range()

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Return the experts' mean a chain."""
        pictures = [picture for chain in chains if (picture := chain.final_picture) is not None]
        truths = [truth for chain in chains if (truth := truth_of(chain.prompt)) is not None]
        shares = {name: e.shares(pictures, truths, margin=_MARGIN) for name, e in self._experts.items()}
        return [self._mean({name: float(s[i]) for name, s in shares.items()}) for i in range(len(chains))]

    def _mean(self, shares: Mapping[str, float]) -> Score:
        """Return the weighted mean, or the experts that gave none."""
        broken = [name for name, share in shares.items() if not math.isfinite(share)]
        if broken:
            return Failure(f"no finite score from {', '.join(broken)}")
        weighted = sum(self._weights[name] * share for name, share in shares.items())
        return weighted / sum(self._weights.values())


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
    weight = checked.get("weight", 1.0)
    if not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ConfigError(f"experts.{name}.weight: want a number above 0, got {weight!r}")
    return checked
