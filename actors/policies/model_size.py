"""Size of a policy's model, before it is loaded: its parameters are counted, its architecture is read.

Weights that are here are counted in the headers of their files, in milliseconds. Where a checkpoint has none yet, its
own class is made from its configuration on torch's meta device, without memory. Either is right for every family.
"""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from actors.policies.denoising.checkpoint import NETS
from configs.derive import COLDSTART, COLDSTART_DONE, coldstart_directory
from configs.errors import first_line
from configs.planning.activations import is_transformer
from configs.planning.models import PIXEL_RANGE, Model, assumed_model
from configs.schema import Config
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError


def find_models(config: Config) -> dict[str, Model | None]:
    """Return what is known of every policy's model, by policy; None where nothing is.

    Raises:
        ConfigError: If a checkpoint is here and cannot be read.
    """
    return {name: find_model(config, name) for name in config.policies}


def find_model(config: Config, policy: str) -> Model | None:
    """Return one policy's model: counted where its checkpoint is here, else as published, else None.

    Raises:
        ConfigError: If the checkpoint is here and cannot be read.
    """
    kind, directory = config.policies[policy].kind, _checkpoint(config, policy)
    return assumed_model(config, policy) if directory is None else read_model(directory, kind)


def _checkpoint(config: Config, policy: str) -> Path | None:
    """Return the folder of a policy's checkpoint, a hub name's in the cache of downloads; None where it is not here."""
    spec = config.policies[policy]
    if spec.source == COLDSTART:
        start = coldstart_directory(config)
        return start / policy if (start / COLDSTART_DONE).exists() else None
    directory = Path(spec.source)
    if directory.is_dir():
        return directory
    from huggingface_hub import try_to_load_from_cache

    file = "model_index.json" if spec.kind == "denoising" else "config.json"
    cached = try_to_load_from_cache(spec.source, file)
    return Path(cached).parent if isinstance(cached, str) else None


_UNREADABLE = (
    *(OSError, ValueError, LookupError, ImportError, AttributeError, TypeError, RecursionError),
    SafetensorError,
)
"""What reading damaged files of a checkpoint raises."""


def read_model(directory: Path, kind: str) -> Model:
    """Read a checkpoint's architecture and count its parameters.

    Args:
        directory: diffusers layout (``denoising``), or Hugging Face layout.
        kind: Of the policy.

    Raises:
        ConfigError: If a file is missing or broken, or names a class that is not installed.
    """
    try:
        return _denoising_model(directory) if kind == "denoising" else _token_model(directory)
    except _UNREADABLE as error:
        raise ConfigError(
            f"{directory}: its size cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from error


def _token_model(directory: Path) -> Model:
    config = _json(directory / "config.json")
    # The released Qwen2.5-VL keeps the language model's keys beside the others.
    fields = {"text_config": config.get("text_config", config)}
    # Towers of other forms are counted, but what a picture costs in them is not known.
    if "spatial_merge_size" in config.get("vision_config", {}):
        fields["vision_config"] = config["vision_config"]
    return Model(
        name=str(directory),
        origin="read",
        fields=fields,
        num_trained=_count_saved(directory) or _count_language_model(directory),
        pixel_range=_pixel_range(directory),
    )


def _denoising_model(directory: Path) -> Model:
    index = _json(directory / "model_index.json")
    sizes = {
        name: _count_saved(directory / name) or _count_part(directory / name, *part)
        for name, part in index.items()
        if isinstance(part, list) and (directory / name / "config.json").is_file()
    }
    (net, *_) = (name for name in NETS if name in sizes)
    num_trained, net_fields = sizes.pop(net), _json(directory / net / "config.json")
    patch, latents_a_pixel = _latents(directory, net_fields)
    return Model(
        name=str(directory),
        origin="read",
        fields=net_fields,
        num_trained=num_trained,
        num_frozen=sum(sizes.values()),
        patch=int(index.get("patch", patch)),
        latents_a_pixel=latents_a_pixel,
    )


def _latents(directory: Path, net: dict[str, Any]) -> tuple[int, float]:
    """Return the pixels along the edge of a net's cell or token, and a latent's numbers over its picture's pixels."""
    vae = _json(directory / "vae" / "config.json") if (directory / "vae" / "config.json").is_file() else {}
    levels = (
        vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or vae.get("dim_mult") or [0]
    )
    edge = 2 ** (len(levels) - 1)
    channels = int(vae.get("latent_channels") or vae.get("z_dim") or 3)
    if is_transformer(net):
        packed = max(
            1, int(net.get("in_channels") or channels) // channels
        )  # pipelines pack squares of latents
        patch = edge * (math.isqrt(packed) if packed > 1 else int(net.get("patch_size") or 1))
    else:
        patch = edge
    return patch, channels / edge**2


def _count_saved(directory: Path) -> int:
    """Count in the headers of a folder's weights; a tensor that two files have (in two precisions) counts once."""
    sizes: dict[str, int] = {}
    for path in directory.glob("*model*.safetensors"):
        with safe_open(path, framework="np") as file:
            sizes |= {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return sum(sizes.values())


def _count_language_model(directory: Path) -> int:
    ensure_torchvision()
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    sees = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    return _count_made(auto.from_config, config)


def _count_part(directory: Path, library: str, name: str) -> int:
    """Count one part of a pipeline by its class."""
    ensure_torchvision()
    kind: Any = getattr(importlib.import_module(library), name)
    if library == "transformers":
        return _count_made(kind, kind.config_class.from_pretrained(directory))
    return _count_made(kind.from_config, kind.load_config(directory))


def _count_made(make: Any, config: Any) -> int:
    """Make a model without memory and count its parameters; a matrix that is used twice counts once."""
    import torch

    with torch.device("meta"):
        model = make(config)
    if hasattr(model, "tie_weights"):  # on the meta device nothing is tied yet
        model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


def _pixel_range(directory: Path) -> tuple[int, int]:
    for path in (directory / "processor_config.json", directory / "preprocessor_config.json"):
        if path.is_file():
            content = _json(path)
            content = content.get("image_processor", content)
            size = content.get("size") or {}
            low = size.get("shortest_edge") or content.get("min_pixels")
            high = size.get("longest_edge") or content.get("max_pixels")
            if low and high:
                return int(low), int(high)
    return PIXEL_RANGE


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
