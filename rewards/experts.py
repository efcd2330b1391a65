"""Visual experts: pyiqa's metrics by name, from weights on disk only.

torch and pyiqa are imported in ``setup``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.derive import COLDSTART
from rewards.catalogue import find_metric
from rewards.pyiqa_metric import create_metric
from rewards.sizes import check_size
from rl.errors import ConfigError
from rl.spans import span
from rl.types import Floats, Pixels

if TYPE_CHECKING:
    import torch

BATCH_PIXELS = 4 << 20
"""Most pixels in one call of a metric, 16 pictures of 512 px: FSIM and its like hold many planes of each."""
JUDGE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "psnr": {"test_y_channel": False, "crop_border": 0},
    "psnry": {"test_y_channel": True, "crop_border": 0},
    "ssim": {"test_y_channel": True, "crop_border": 0},
    "ssimc": {"test_y_channel": False, "crop_border": 0},
    "gmsd": {"test_y_channel": True},
    "fsim": {"chromatic": True},
}
"""Colour space and border of the judges, stated rather than inherited from pyiqa; see ``Judges``."""


class Expert:
    """One pyiqa metric.

    Attributes that pyiqa knows, ``lower_better``, ``full_reference`` and ``score_range``, are there after
    ``setup``.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Name the metric; nothing is loaded.

        Args:
            name: pyiqa's name.
            weights: Weights file (``pretrained_model_path``). A JSON file beside it, of the same stem, may
                hold ``options`` of the architecture and the ``range`` of its scores. None needs a metric
                without weights, or with weights in pyiqa's cache.
            device: torch device; None takes a GPU where the process has one.
            options: Further arguments of the metric.
        """
        self.name = name
        self.weights = None if weights is None else Path(weights)
        self.device = device
        self.options = dict(options or {})
        self.lower_better = False
        self.full_reference = False
        self.score_range: tuple[float, float] | None = None
        self._metric: Any = None

    @property
    def is_set_up(self) -> bool:
        """Whether it is loaded."""
        return self._metric is not None

    def check(self, size_px: int | None = None) -> None:
        """Find out, before a run starts, whether a worker will be able to use it.

        It is loaded here, on the CPU unless a device is named, and judges a made-up picture. The learned expert of a
        cold start may not exist yet; only its name is looked at.

        Args:
            size_px: Edge of the pictures it will judge; None judges none.

        Raises:
            ConfigError: As ``setup``; also if it has no score of one picture, or none of pictures so small.
        """
        if find_metric(self.name).of_sets:
            raise ConfigError(f"expert {self.name} compares folders of pictures; it has no score of one")
        if self.weights == Path(COLDSTART):
            return
        if self._metric is None:
            self.device = self.device or "cpu"
            self.setup()
        if size_px is not None:
            check_size(self, size_px)

    def setup(self) -> None:
        """Import pyiqa and load the metric; never from the network.

        Raises:
            ConfigError: If pyiqa does not know the name or the options, or the weights are not here.
        """
        known = find_metric(self.name)
        sidecar = self._sidecar()
        options = {**sidecar.get("options", {}), **self.options}
        self._metric = create_metric(self.name, weights=self.weights, device=self.device, options=options)
        self.lower_better = known.lower_better
        self.full_reference = known.full_reference
        declared = sidecar.get("range") or known.score_range
        self.score_range = None if declared is None else (float(declared[0]), float(declared[1]))

    def score(self, pictures: Sequence[Pixels], truths: Sequence[Pixels] = ()) -> Floats:
        """Score pictures, in batches of one size and at most ``BATCH_PIXELS``.

        Args:
            pictures: n pictures.
            truths: Their ground truths of the same sizes, for a full-reference metric; unused otherwise.

        Returns:
            The metric's own values, ``[n]``.

        Raises:
            ValueError: If a truth is missing or differs in size.
            RuntimeError: If ``setup`` was not called.
        """
        if self._metric is None:
            raise RuntimeError(f"expert {self.name}: setup() was not called")
        if self.full_reference:
            _check_truths(self.name, pictures, truths)
        out = np.empty(len(pictures), dtype=np.float32)
        for indexes in _batches(pictures):
            batch = [to_tensor([pictures[i] for i in indexes])]
            if self.full_reference:
                batch.append(to_tensor([truths[i] for i in indexes]))
            out[indexes] = self._metric(*batch).detach().float().cpu().numpy().reshape(len(indexes))
        return out

    def _sidecar(self) -> dict[str, Any]:
        if self.weights is None:
            return {}
        if not self.weights.is_file():
            raise ConfigError(f"expert {self.name}: no weights file {self.weights}")
        path = self.weights.with_suffix(".json")
        return dict(json.loads(path.read_text())) if path.is_file() else {}


class Judges:
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
        self._experts = {n: Expert(n, device=device, options=JUDGE_OPTIONS.get(n)) for n in names}

    def check(self, size_px: int | None = None) -> None:
        """Find out, before a run starts, whether all of them can judge its pictures; see ``Expert.check``.

        Raises:
            ConfigError: For the first that cannot.
        """
        for expert in self._experts.values():
            try:
                expert.check(size_px)
            except ConfigError as error:
                raise ConfigError(f"eval.judges: {error}") from error

    def setup(self) -> None:
        """Load every metric.

        Raises:
            ConfigError: If one is unknown or needs a download.
        """
        for expert in self._experts.values():
            try:
                expert.setup()
            except ConfigError as error:
                raise ConfigError(f"eval.judges: {error}") from error

    def lower_better(self) -> dict[str, bool]:
        """Return the direction of each metric."""
        return {name: expert.lower_better for name, expert in self._experts.items()}

    @span("judge")
    def score(self, pictures: Sequence[Pixels], truths: Sequence[Pixels]) -> dict[str, Floats]:
        """Measure pictures against their truths; each metric's own values, ``[n]``, by name."""
        return {name: expert.score(pictures, truths) for name, expert in self._experts.items()}


def to_tensor(pictures: Sequence[Pixels]) -> torch.Tensor:
    """Stack equal-sized pictures to ``float32[n, 3, H, W]`` in 0..1."""
    import torch

    stacked = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
    return torch.from_numpy(stacked).float().div_(255)


def _batches(pictures: Sequence[Pixels]) -> Iterator[list[int]]:
    """Yield indexes of pictures that go through a metric together."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        by_shape[picture.shape].append(index)
    for (height, width, _), indexes in by_shape.items():
        size = max(1, BATCH_PIXELS // (height * width))
        for start in range(0, len(indexes), size):
            yield indexes[start : start + size]


def _check_truths(name: str, pictures: Sequence[Pixels], truths: Sequence[Pixels]) -> None:
    if len(pictures) != len(truths):
        raise ValueError(f"{name}: {len(pictures)} pictures, {len(truths)} truths")
    for index, (picture, truth) in enumerate(zip(pictures, truths, strict=True)):
        if picture.shape != truth.shape:
            raise ValueError(f"{name}: picture {index} is {picture.shape}, its truth {truth.shape}")
