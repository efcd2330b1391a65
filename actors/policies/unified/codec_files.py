"""Which picture codec a policy's checkpoint has, told from its JSON alone; nothing is loaded.

Three are taken: the small one of ours (``small_codec``), ``diffusers.VQModel``, and Emu3's (``stock_codecs``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rl.errors import ConfigError

CODEC = "codec"
"""Folder of the codec inside a policy's checkpoint."""
CONFIG = "config.json"
Kind = Literal["PatchCodec", "VQModel", "Emu3VQVAE", "Emu3"]
"""``Emu3`` is a whole Emu3 checkpoint, the codec one part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFiles:
    """What a checkpoint's JSON says of its codec."""

    kind: Kind
    directory: Path
    """Of ``config.json``."""
    stride: int
    """Pixels of an edge that a code stands for."""
    num_codes: int


def check_codec(directory: Path) -> None:
    """Refuse a checkpoint without a codec that can be used; nothing is loaded.

    Raises:
        ConfigError: Says what is wrong and what is possible.
    """
    files = read_codec(directory)
    if not any(files.directory.glob("*.safetensors")):
        raise ConfigError(
            f"{files.directory}: has a {CONFIG} and no safetensors file with the picture codec's weights"
        )


def read_codec(directory: Path) -> CodecFiles:
    """Read which codec a checkpoint has, and its sizes.

    Raises:
        ConfigError: If there is none, or one that cannot be used.
    """
    own = directory / CODEC
    folder = own if own.is_dir() else directory
    stored = _read_json(folder / CONFIG, directory)
    name = stored.get("_class_name") or stored.get("model_type")
    try:
        match name:
            case "PatchCodec":
                stride, num_codes = int(stored["stride"]), int(stored["num_codes"])
                return CodecFiles(kind="PatchCodec", directory=folder, stride=stride, num_codes=num_codes)
            case "VQModel":
                stride, num_codes = (
                    2 ** (len(stored["block_out_channels"]) - 1),
                    int(stored["num_vq_embeddings"]),
                )
                return CodecFiles(kind="VQModel", directory=folder, stride=stride, num_codes=num_codes)
            case "emu3_vqgan":
                return _emu3_files("Emu3VQVAE", folder, stored)
            case "emu3":
                return _emu3_files("Emu3", folder, stored.get("vq_config"))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / CONFIG} is damaged: {type(error).__name__}: {error}") from error
    if name == "chameleon":
        raise ConfigError(
            f"{directory}: transformers has the encoder of Chameleon's picture codec and no decoder, so its pictures "
            f"cannot be seen; put encoder, codebook and decoder of the original checkpoint into {own} as a "
            "diffusers VQModel"
        )
    raise ConfigError(
        f"{folder}: holds {name or 'no named model'} and no picture codec; a unified policy needs one in {own}: a "
        "diffusers VQModel, an Emu3VQVAE, or what a cold start makes"
    )


def _emu3_files(kind: Kind, folder: Path, stored: dict[str, Any] | None) -> CodecFiles:
    from transformers import Emu3VQVAEConfig

    config = Emu3VQVAEConfig(**(stored or {}))  # a file may leave out what is as usual
    stride = 2 ** (len(config.channel_multiplier) - 1)
    return CodecFiles(kind=kind, directory=folder, stride=stride, num_codes=config.codebook_size)


def _read_json(path: Path, directory: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"{directory}: no {CODEC}/{CONFIG} in it; a unified policy's checkpoint has its picture codec in {CODEC}/"
        )
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    if not isinstance(stored, dict):
        raise ConfigError(f"{path} is damaged: it holds no JSON object")
    return stored
