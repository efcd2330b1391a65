"""Picture metrics of an evaluation: full-reference metrics that measure and are never rewarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import prefixed
from rewards.experts.expert import Expert
from rl.spans import span
from rl.types import Floats, Pixels

METRIC_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "psnr": {"test_y_channel": False, "crop_border": 0},
    "psnry": {"test_y_channel": True, "crop_border": 0},
    "ssim": {"test_y_channel": True, "crop_border": 0},
    "ssimc": {"test_y_channel": False, "crop_border": 0},
    "gmsd": {"test_y_channel": True},
    "fsim": {"chromatic": True},
}
"""Colour space and border of the metrics, stated rather than inherited from pyiqa; see ``PictureMetrics``."""


class PictureMetrics:
    """Full-reference metrics that measure and are never rewarded.

    ``psnr``: dB, mean squared error over all three channels of RGB (80 dB for equal pictures). ``ssim`` and
    ``gmsd``: on luma, the Y of YIQ over the full range, rounded to 8 bits for SSIM; window 11 x 11, sigma 1.5.
    ``psnry`` and ``ssimc`` are those two on luma and on RGB. ``fsim``: with its chromatic term. ``vsi``: on RGB.
    No border is cut off before measuring; SSIM's window lies wholly inside the picture.
    """

    def __init__(self, names: Sequence[str], *, device: str | None = None) -> None:
        """Name the metrics; nothing is loaded.

        Args:
            names: pyiqa's names.
            device: torch device; None takes a GPU where the process has one.
        """
        self._experts = {n: Expert(n, device=device, options=METRIC_OPTIONS.get(n)) for n in names}

    def check(self, size_px: int | None = None) -> None:
        """Find out, before a run starts, whether all of them can measure its pictures; see ``Expert.check``.

        Raises:
            ConfigError: For the first that cannot.
        """
        with prefixed("eval.metrics: "):
            for expert in self._experts.values():
                expert.check(size_px)

    def setup(self) -> None:
        """Load every metric.

        Raises:
            ConfigError: If one is unknown or needs a download.
        """
        with prefixed("eval.metrics: "):
            for expert in self._experts.values():
                expert.setup()

    def lower_better(self) -> dict[str, bool]:
        """Return the direction of each metric."""
        return {name: expert.lower_better for name, expert in self._experts.items()}

    @span("restore")
    def restored(self, pictures: Sequence[Pixels], scale: int) -> list[Pixels]:
        """Enlarge pictures by Real-ESRGAN; none where the extra ``restorer`` is not installed."""
        from rewards.experts.real_esrgan import enlarge, find_weights, read_net  # torch

        weights = find_weights(scale)
        if weights is None:
            return []
        net = read_net(weights)
        return [enlarge(net, picture) for picture in pictures]

    @span("measure")
    def score(self, pictures: Sequence[Pixels], truths: Sequence[Pixels]) -> dict[str, Floats]:
        """Measure pictures against their truths; each metric's own values, ``[n]``, by name."""
        return {name: expert.score(pictures, truths) for name, expert in self._experts.items()}
