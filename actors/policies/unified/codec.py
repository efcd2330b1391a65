"""Picture codec: pictures as grids of codes and back, by a net from a policy's checkpoint folder.

It knows nothing of the policy's vocabulary: a code is ``0 .. num_codes - 1``.

Letters: B pictures, H W pixels, h w codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from actors.policies.restoration.image_model import to_latents, to_pictures
from actors.policies.unified.codec_files import CODEC, CodecFiles, read_codec
from actors.policies.unified.small_codec import PatchCodec
from actors.policies.unified.stock_codecs import load_emu3, load_vq_model, whole
from configs.errors import first_line
from rl.errors import ConfigError
from rl.types import Ints, Pixels


class CodecNet(Protocol):
    """What turns pictures into codes and back."""

    stride: int
    """Pixels of an edge that a code stands for."""
    num_codes: int

    def to_codes(self, pictures: Tensor) -> Tensor:
        """Turn pictures ``float32[B, 3, H, W]`` in -1..1 into codes ``int64[B, h, w]``."""

    def to_pixels(self, codes: Tensor) -> Tensor:
        """Turn codes ``int64[B, h, w]`` into pictures ``float32[B, 3, H, W]``, about -1..1."""

    def to(self, device: torch.device) -> Self:
        """Move the net."""

    def save_pretrained(self, directory: Path) -> None:
        """Write what ``load_codec`` reads as ``codec/``."""


class PictureCodec:
    """A picture tokenizer.

    Args:
        net: In evaluation mode.
        device: Where it computes.
    """

    def __init__(self, net: CodecNet, device: torch.device) -> None:
        self._net, self._device = net.to(device), device
        self.stride, self.num_codes = net.stride, net.num_codes

    def encode(self, picture: Pixels) -> Ints:
        """Turn ``uint8[H, W, 3]`` into ``int32[H / stride, W / stride]``; errors as of ``encode_batch``."""
        return self.encode_batch([picture])[0]

    def decode(self, codes: Ints) -> Pixels:
        """Turn ``int32[h, w]`` into ``uint8[h * stride, w * stride, 3]``; errors as of ``decode_batch``."""
        return self.decode_batch([codes])[0]

    @torch.inference_mode()
    def encode_batch(self, pictures: Sequence[Pixels]) -> list[Ints]:
        """Encode pictures of any sizes, one call of the net a size.

        Raises:
            ConfigError: If an edge is not a multiple of the stride.
        """
        for height, width, _ in (picture.shape for picture in pictures):
            if height % self.stride or width % self.stride:
                raise ConfigError(
                    f"a picture of {width}x{height} px cannot be encoded: edges must be multiples of {self.stride}, "
                    "the codec's stride; change the chain's picture sizes"
                )

        def encoded(batch: Sequence[Pixels]) -> list[Ints]:
            codes = self._net.to_codes(to_latents(batch).to(self._device))
            return list(codes.to("cpu", torch.int32).numpy())

        return _by_shape(pictures, encoded)

    @torch.inference_mode()
    def decode_batch(self, codes: Sequence[Ints]) -> list[Pixels]:
        """Decode grids of any sizes, one call of the net a size.

        Raises:
            ValueError: If something is no code.
        """
        for grid in codes:
            if grid.size and not (grid.min() >= 0 and grid.max() < self.num_codes):
                raise ValueError(f"codes {grid.min()} to {grid.max()}; want 0 to {self.num_codes - 1}")

        def decoded(batch: Sequence[Ints]) -> list[Pixels]:
            ids = torch.from_numpy(np.stack(batch)).to(self._device, torch.int64)
            return to_pictures(self._net.to_pixels(ids))

        return _by_shape(codes, decoded)

    def save(self, directory: Path) -> None:
        """Write the codec into a policy's checkpoint folder."""
        self._net.save_pretrained(directory / CODEC)


def _by_shape(arrays: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """Do ``work`` on all arrays of a shape at once; the results in the order of ``arrays``."""
    order = sorted(range(len(arrays)), key=lambda index: arrays[index].shape)
    results: dict[int, Any] = {}
    for _, group in groupby(order, key=lambda index: arrays[index].shape):
        indexes = list(group)
        results |= dict(zip(indexes, work([arrays[index] for index in indexes]), strict=True))
    return [results[index] for index in range(len(arrays))]


def load_codec(directory: Path, device: torch.device | None = None) -> PictureCodec:
    """Load the codec of a policy's checkpoint.

    Args:
        directory: The policy's folder: with ``codec/``, or of an Emu3 model.
        device: Where it computes; the CPU by default.

    Raises:
        ConfigError: If there is none that can be used; see ``read_codec``.
    """
    files = read_codec(directory)
    try:
        net = _load_net(files)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{files.directory}: its picture codec does not load: {first_line(error)}"
        ) from error
    return PictureCodec(net, device or torch.device("cpu"))


def _load_net(files: CodecFiles) -> CodecNet:
    if files.kind == "PatchCodec":
        return whole(PatchCodec, files.directory)  # type: ignore[no-any-return]
    return load_vq_model(files.directory) if files.kind == "VQModel" else load_emu3(files)
