"""Catalogue of pyiqa's metrics, read from its own files: quick, because neither pyiqa nor torch is imported.

Nothing is copied from pyiqa. Names, direction, range and options come from its table of default configurations (one
direction is corrected, and a test asks the metrics themselves); whether a metric has weights is read off the source of
its architecture: does it import anything that loads some?
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.suggest import suggest
from rl.errors import ConfigError

_LOADS_WEIGHTS = re.compile(
    r"load_file_from_url|load_pretrained_network|load_state_dict_from_url|from_pretrained|create_model"
    r"|torchvision(\.| import )models|clip_model|\.inception"
)
"""Names through which pyiqa's architectures get weights: its own loaders, timm, torchvision, transformers, CLIP."""
_CLASS = re.compile(r"^@ARCH_REGISTRY\.register\(\)\s+class (\w+)", re.MULTILINE)
_SPACE = re.compile(r"color_space=['\"](\w+)['\"]")
_UNFLAGGED_DISTANCES = frozenset({"dmm"})
"""Metrics that measure a distance from the truth, where pyiqa's table forgets to say that less is better."""
_OF_SETS = re.compile(r"fid|^inception_score$")
"""pyiqa's own rule for metrics that compare whole folders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of pyiqa."""

    name: str
    full_reference: bool
    """It compares with the truth; otherwise it judges the picture alone."""
    lower_better: bool
    score_range: tuple[float, float] | None
    """Of its scores, as far as pyiqa says; None where an end is open."""
    range_text: str
    """As pyiqa writes it; ``~`` is an estimate."""
    colours: str
    """What is measured: ``RGB``, or ``luma`` and the colour space it is the first axis of."""
    has_weights: bool
    """It needs a file of weights."""
    of_sets: bool
    """It compares folders of pictures and has no score of one."""
    architecture: str
    """pyiqa's class."""
    options: Mapping[str, Any]
    """pyiqa's default options."""


@functools.cache
def catalogue() -> Mapping[str, Metric]:
    """Read every metric of the installed pyiqa, by name in its own order."""
    folder = _pyiqa_folder()
    configs = _module(folder / "default_model_configs.py").DEFAULT_CONFIGS
    sources = _sources(folder / "archs")
    return {name: _metric(name, config, sources) for name, config in configs.items()}


def find_metric(name: str) -> Metric:
    """Return one metric.

    Raises:
        ConfigError: If pyiqa has none of this name; names the nearest.
    """
    known = catalogue()
    if name not in known:
        raise ConfigError(f"pyiqa has no metric {name!r}{suggest(name, known)}")
    return known[name]


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Read pyiqa's ``'~0, ~100'``; None where an end is open or unknown."""
    parts = (text or "").replace("~", "").split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        return None
    return (low, high) if low < high else None


def _metric(name: str, config: Mapping[str, Any], sources: Mapping[str, str]) -> Metric:
    options = dict(config["metric_opts"])
    architecture = options.pop("type")
    source = sources[architecture]
    return Metric(
        name=name,
        full_reference=config["metric_mode"] == "FR",
        lower_better=bool(config.get("lower_better", False)) or name in _UNFLAGGED_DISTANCES,
        score_range=parse_range(config.get("score_range")),
        range_text=config.get("score_range") or "?",
        colours=_colours(options, source),
        has_weights=_LOADS_WEIGHTS.search(source) is not None,
        of_sets=_OF_SETS.search(name) is not None,
        architecture=architecture,
        options=options,
    )


def _colours(options: Mapping[str, Any], source: str) -> str:
    """A metric that converts to luma does so unless its options say no; the space is its code's default."""
    if "to_y_channel" not in source or options.get("test_y_channel") is False:
        return "RGB"
    space = _SPACE.search(source)
    return f"luma ({space[1]})" if space else "luma"


def _sources(folder: Path) -> dict[str, str]:
    """Read the architectures: class -> text of the file it is in."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*_arch.py"))]
    return {name: text for text in texts for name in _CLASS.findall(text)}


def _pyiqa_folder() -> Path:
    spec = importlib.util.find_spec("pyiqa")
    if spec is None or spec.origin is None:
        raise ConfigError("visual experts need pyiqa, which is not installed: pip install pyiqa")
    return Path(spec.origin).parent


def _module(path: Path) -> Any:
    """Run one file by itself: importing it from its package would import the package, and torch with it."""
    spec = importlib.util.spec_from_file_location(f"_catalogue_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
