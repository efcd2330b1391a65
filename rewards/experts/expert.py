"""Visual expert: one of pyiqa's metrics by name, from weights on disk only, and the smallest picture it can judge.

torch and pyiqa are imported in ``setup``.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from configs.derive import COLDSTART
from configs.paths import expand
from rewards.core.one_line import one_line
from rewards.experts.catalogue import find_metric
from rewards.experts.pyiqa_metric import create_metric, quiet
from rl.errors import ConfigError
from rl.types import Floats, Pixels

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

BATCH_PIXELS = 4 << 20
"""Most pixels in one call of a metric, 16 pictures of 512 px: FSIM and its like hold many planes of each."""
SMALLEST_PX, LARGEST_PX = 4, 512
"""Where the search for the smallest picture begins and ends."""


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
        range: Sequence[float] | None = None,
    ) -> None:
        """Name the metric; nothing is loaded.

        Args:
            name: pyiqa's name.
            weights: Weights file (``pretrained_model_path``). A JSON file beside it, of the same stem, may
                hold ``options`` of the architecture and the ``range`` of its scores. None needs a metric
                without weights, or with weights in pyiqa's cache.
            device: torch device; None takes a GPU where the process has one.
            options: Further arguments of the metric.
            range: [low, high] of its scores, where they are not what its files or pyiqa say.

        Raises:
            ConfigError: If the range is none.
        """
        if range is not None and not _is_range(range):
            raise ConfigError(f"range: want [low, high] with low < high, got {range}")
        self.name = name
        self.weights = None if weights is None else Path(expand(str(weights)))
        self.device = device
        self.options = dict(options or {})
        self.lower_better = False
        self.full_reference = False
        self.score_range: tuple[float, float] | None = None
        self._declared_range = range
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
        declared = self._declared_range or sidecar.get("range") or known.score_range
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

    def shares(
        self, pictures: Sequence[Pixels], truths: Sequence[Pixels] = (), *, margin: float
    ) -> NDArray[np.float64]:
        """Score pictures as shares of the range, ``[n]``, larger is better; NaN and infinity stay what they are.

        Args:
            pictures: As for ``score``.
            truths: As for ``score``.
            margin: How far beyond 0 and 1 a share is held, in shares.
        """
        low, high = self.score_range or (0.0, 1.0)
        if self.lower_better:
            low, high = high, low
        share = (self.score(pictures, truths).astype(np.float64) - low) / (high - low)
        return np.where(np.isfinite(share), np.clip(share, -margin, 1.0 + margin), share)

    def check_range(self) -> None:
        """Refuse, once it is loaded, an expert whose scores have no known range."""
        if self.is_set_up and self.score_range is None:
            raise ConfigError(
                f"expert {self.name}: its scores have no declared range; give range: [low, high]"
            )

    def _sidecar(self) -> dict[str, Any]:
        if self.weights is None:
            return {}
        if not self.weights.is_file():
            raise ConfigError(f"expert {self.name}: no weights file {self.weights}")
        path = self.weights.with_suffix(".json")
        return dict(json.loads(path.read_text())) if path.is_file() else {}


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
        return one_line(f"{type(error).__name__}: {error}", 160)
    return "" if math.isfinite(value) else f"its score is {value}"


def _picture(size_px: int, *, noise: float) -> Pixels:
    """Paint waves with some noise: no metric divides by the contrast of a flat picture."""
    rows, columns = np.mgrid[0:size_px, 0:size_px] / 16.0
    waves = np.stack([np.sin(rows + columns), np.cos(rows * 2), np.sin(columns * 3 - rows)], axis=-1)
    spread = np.random.default_rng(0).normal(0.0, noise, waves.shape)
    return np.clip(127.5 + 70.0 * waves + spread, 0, 255).astype(np.uint8)


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


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, Sequence) and all(isinstance(end, int | float) for end in value)
    return numbers and len(value) == 2 and -math.inf < value[0] < value[1] < math.inf


def _check_truths(name: str, pictures: Sequence[Pixels], truths: Sequence[Pixels]) -> None:
    if len(pictures) != len(truths):
        raise ValueError(f"{name}: {len(pictures)} pictures, {len(truths)} truths")
    for index, (picture, truth) in enumerate(zip(pictures, truths, strict=True)):
        if picture.shape != truth.shape:
            raise ValueError(f"{name}: picture {index} is {picture.shape}, its truth {truth.shape}")
