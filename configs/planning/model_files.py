"""What is known of a policy's model before it is loaded: read from its checkpoint where it is here, else assumed."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.derive import COLDSTART, COLDSTART_DONE, coldstart_directory, degraded_px
from configs.errors import ConfigError
from configs.planning.known_models import FROZEN_PARAMETERS, PICTURE_MODELS, TEXT_MODELS
from configs.planning.model_shapes import count_parameters
from configs.schema import Config

Fields = Mapping[str, Any]
_NETS = ("unet", "transformer")
"""Folders of the trained net in the diffusers layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A policy's model."""

    name: str
    """Folder or hub name."""
    origin: Literal["read", "assumed"]
    """From a checkpoint on this machine, or from published numbers."""
    fields: Fields
    """Of the trained net's ``config.json``."""
    num_trained: int
    """Parameters that learn and are published."""
    num_frozen: int = 0
    """Parameters that are run only (a picture policy's text encoder)."""
    patch: int = 4
    """Picture policies: pixels along the edge of a cell of the net's input."""
    pixel_range: tuple[int, int] = (3136, 12845056)
    """Token policies: least and most pixels the image processor scales a picture to."""


def find_model(config: Config, policy: str) -> Model | None:
    """Return what is known of a policy's model, or None where nothing is.

    Args:
        config: The run.
        policy: Key of the policy.

    Raises:
        ConfigError: If the checkpoint is here and cannot be read.
    """
    spec = config.policies[policy]
    source = Path(spec.source).expanduser()
    if spec.source == COLDSTART:
        start = coldstart_directory(config)
        source = start / policy if (start / COLDSTART_DONE).exists() else Path()
    if spec.source and source != Path() and source.is_dir():
        return read_model(source, spec.kind)
    return _assumed(config, spec.source, spec.kind)


def read_model(directory: Path, kind: str) -> Model:
    """Read a checkpoint's architecture and the headers of its weights; no weight is loaded.

    Args:
        directory: Hugging Face layout (``token``) or diffusers layout (``denoising``).
        kind: ``token`` or ``denoising``.

    Raises:
        ConfigError: If a file is missing or broken.
    """
    try:
        if kind == "token":
            return Model(
                name=str(directory),
                origin="read",
                fields=_json(directory / "config.json"),
                num_trained=count_saved(directory),
                pixel_range=_pixel_range(directory),
            )
        net = next(directory / name for name in _NETS if (directory / name).is_dir())
        others = [path for path in directory.iterdir() if path.is_dir() and path != net]
        return Model(
            name=str(directory),
            origin="read",
            fields=_json(net / "config.json"),
            num_trained=count_saved(net),
            num_frozen=sum(count_saved(path) for path in others),
            patch=int(_json(directory / "model_index.json").get("patch", 8)),
        )
    except (OSError, ValueError, KeyError, StopIteration, struct.error) as error:
        raise ConfigError(f"{directory}: its size cannot be read: {type(error).__name__}: {error}") from error


def count_saved(directory: Path) -> int:
    """Return the elements of all tensors in a folder's safetensors files, from their headers.

    Source:
        The safetensors format: eight bytes of little-endian length, then a JSON object of names.
    """
    total = 0
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        total += sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    return total


def _assumed(config: Config, source: str, kind: str) -> Model | None:
    fields = (TEXT_MODELS if kind == "token" else PICTURE_MODELS).get(source)
    if fields is None:
        return None
    # What the cold start makes scales every picture to the degraded photo's size.
    edge = degraded_px(config) if source == COLDSTART else 0
    own = {"pixel_range": (edge**2, edge**2)} if edge else {}
    return Model(
        name=source,
        origin="assumed",
        fields=fields,
        num_trained=count_parameters(fields),
        num_frozen=FROZEN_PARAMETERS.get(source, 0) if kind == "denoising" else 0,
        patch=4 if source == COLDSTART else 8,
        **own,
    )


def _pixel_range(directory: Path) -> tuple[int, int]:
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (directory / name).is_file():
            content = _json(directory / name)
            content = content.get("image_processor", content)
            size = content.get("size") or {}
            low = size.get("shortest_edge") or content.get("min_pixels")
            high = size.get("longest_edge") or content.get("max_pixels")
            if low and high:
                return int(low), int(high)
    return 3136, 12845056


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
