"""Fidelity reward: how close the restored picture is to the truth, for photographs that have one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from configs.derive import final_px
from configs.schema import BlockConfig
from rewards.base import Failure, Need, Reward, Score
from rewards.experts.catalogue import catalogue, find_metric
from rewards.experts.expert import Expert
from rewards.experts.picture_metrics import METRIC_OPTIONS
from rl.errors import ConfigError
from rl.restoration.names import TRUTH, truth_of
from rl.types import ChainView


class FidelityReward(Reward):
    """One of pyiqa's full-reference metrics on the final picture and the truth, as a share of its range.

    The bad end of the range is 0 and the good end 1, whatever the metric's direction; scores beyond an end count as
    that end. PSNR has pyiqa's range of 0 to 40 dB unless another is given. Colour space and border are those of
    ``eval.metrics`` (``rewards.experts.picture_metrics``). A chain without a final picture, or of a photo without
    truth, gets 0.
    """

    needs = frozenset({Need.FINAL_PICTURE, TRUTH})
    unit = "share of the metric's range"

    def __init__(
        self,
        metric: str = "psnr",
        *,
        range: Sequence[float] | None = None,
        weights: str | None = None,
        options: Mapping[str, Any] | None = None,
        device: str | None = None,
    ) -> None:
        """Choose the metric.

        Args:
            metric: pyiqa's name of a full-reference metric.
            range: Its scores' [low, high]; default what pyiqa declares.
            weights: Its weights file; see ``rewards.experts.expert.Expert``.
            options: Further arguments of the metric.
            device: torch device; None takes a GPU where the process has one.

        Raises:
            ConfigError: If the range is none.
        """
        chosen = {**METRIC_OPTIONS.get(metric, {}), **(options or {})}
        self._expert = Expert(metric, weights=weights, device=device, options=chosen, range=range)

    def check(self) -> None:
        """Refuse a metric that pyiqa does not know, that needs no truth, or whose weights or range are missing."""
        self._expert.check()
        self._check_metric()

    def check_chain(self, chain: Mapping[str, BlockConfig]) -> None:
        """Refuse a metric that has no score of pictures as small as the chain's last."""
        if size_px := final_px(chain):
            self._expert.check(size_px)

    def setup(self) -> None:
        """Load the metric."""
        self._expert.setup()
        self._check_metric()

    def score(self, chains: Sequence[ChainView]) -> Sequence[Score]:
        """Return the share of the range a chain."""
        pictures = [picture for chain in chains if (picture := chain.final_picture) is not None]
        truths = [truth for chain in chains if (truth := truth_of(chain.prompt)) is not None]
        shares = self._expert.shares(pictures, truths, margin=0.0)
        return [
            float(share) if math.isfinite(share) else Failure(f"{self._expert.name} is {share}")
            for share in shares
        ]

    def _check_metric(self) -> None:
        name = self._expert.name
        if not find_metric(name).full_reference:
            some = ", ".join(n for n, m in catalogue().items() if m.full_reference and not m.has_weights)
            raise ConfigError(f"metric: {name} does not compare with a truth; some that do: {some}")
        self._expert.check_range()
