"""Visual experts: pyiqa's metrics by name, from weights on disk only.

torch and pyiqa are imported in ``setup``. pyiqa itself is under a non-commercial licence.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.offline import DownloadRefusedError, refuse_downloads
from rewards.suggest import suggest
from rl.errors import ConfigError
from rl.torchvision_compat import ensure_torchvision
from rl.types import Floats, Pixels

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

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

    def setup(self) -> None:
        """Import pyiqa and load the metric; never from the network.

        Raises:
            ConfigError: If pyiqa does not know the name or the options, or the weights are not here.
        """
        check_known([self.name])
        sidecar = self._sidecar()
        self._metric = self._create({**sidecar.get("options", {}), **self.options})
        self.lower_better = bool(self._metric.lower_better)
        self.full_reference = self._metric.metric_mode == "FR"
        declared = sidecar.get("range") or _parse_range(self._metric.score_range)
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

    def _create(self, options: dict[str, Any]) -> Any:
        import torch

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.weights is not None:
            options["pretrained_model_path"] = str(self.weights)
        try:
            with refuse_downloads(), quiet():
                return import_pyiqa().create_metric(self.name, device=torch.device(device), **options)
        except (TypeError, ImportError, OSError, RuntimeError, KeyError, EOFError, UnpicklingError) as error:
            what = self._explain(error, options)
            if what is None:
                raise
            raise ConfigError(f"expert {self.name} {what}") from error

    def _explain(self, error: Exception, options: Mapping[str, Any]) -> str | None:
        """Say what to do about an error of pyiqa, or None where it is not the user's to mend."""
        said = " ".join(str(error).split())
        if _is_refusal(error):
            return (
                "wants to download weights, which is never done here: give the path of its weights file "
                "(weights), or put its files into the library's cache"
            )
        if isinstance(error, TypeError):
            return f"does not take {sorted(options)}: {said}"
        if isinstance(error, ImportError):
            return f"needs another package: {said}"
        if self.weights is not None:
            return (
                f"cannot use {self.weights}: {said}; want pyiqa's own checkpoint, and the architecture's "
                "arguments in options where they are not the usual ones"
            )
        return None


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

    def score(self, pictures: Sequence[Pixels], truths: Sequence[Pixels]) -> dict[str, Floats]:
        """Measure pictures against their truths; each metric's own values, ``[n]``, by name."""
        return {name: expert.score(pictures, truths) for name, expert in self._experts.items()}


def check_known(names: Sequence[str]) -> None:
    """Refuse a metric that pyiqa does not have.

    Raises:
        ConfigError: Names the first one, and the nearest there is.
    """
    known = import_pyiqa().list_models() if names else ()
    for name in names:
        if name not in known:
            raise ConfigError(f"pyiqa has no metric {name!r}{suggest(name, known)}")


def import_pyiqa() -> Any:
    """Import pyiqa, on any build of torchvision and whatever is done with warnings.

    It leaves a file open and uses deprecated packages at import; neither is the business of our users.
    """
    ensure_torchvision()
    with quiet():
        import pyiqa
    return pyiqa


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep other people's warnings and prints to themselves; what they print goes to the debug log."""
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore")
        yield
    for line in printed.getvalue().splitlines():
        logger.debug("%s", line)


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


def _parse_range(text: str | None) -> tuple[float, float] | None:
    """Read pyiqa's ``'~0, ~100'``; None where an end is open or unknown."""
    parts = (text or "").replace("~", "").split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        return None
    return (low, high) if np.isfinite([low, high]).all() and low < high else None


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a refused download is at the bottom of an error, or a hub client found itself offline."""
    while error is not None:
        if isinstance(error, DownloadRefusedError) or "offline" in f"{type(error).__name__} {error}".lower():
            return True
        error = error.__cause__ or error.__context__
    return False
