"""Codec nets of stock libraries: ``diffusers.VQModel`` and transformers' ``Emu3VQVAE``.

Letters: B pictures, H W pixels, h w codes, C code width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

from actors.policies.unified.codec_files import CodecFiles
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError

EMU3_PART = "vqmodel."
"""In the names of a whole Emu3 checkpoint's weights, before those of the codec."""


def whole(model_class: Any, directory: Path, **options: Any) -> Any:
    """Load a model of diffusers or transformers in evaluation mode.

    Raises:
        ConfigError: If a weight is in no file: the libraries would draw it at random.
    """
    model, told = model_class.from_pretrained(directory, output_loading_info=True, **options)
    _refuse_missing(sorted(told["missing_keys"]), directory)
    return model.eval()


def _refuse_missing(names: Sequence[str], directory: Path) -> None:
    if names:
        raise ConfigError(
            f"{directory}: {len(names)} weights of its picture codec are in no safetensors file, e.g. {names[0]}"
        )


class VQModelNet:
    """A ``diffusers.VQModel``, which sees pictures in -1..1.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.stride = 2 ** (len(model.config.block_out_channels) - 1)
        self.num_codes = int(model.config.num_vq_embeddings)

    def to_codes(self, pictures: Tensor) -> Tensor:
        """See ``CodecNet``."""
        latents = self._model.encode(pictures).latents
        codes: Tensor = self._model.quantize(latents)[2][2]
        return codes.reshape(len(latents), *latents.shape[2:])

    def to_pixels(self, codes: Tensor) -> Tensor:
        """See ``CodecNet``."""
        width = self._model.quantize.embedding.embedding_dim
        entries = self._model.quantize.get_codebook_entry(codes.flatten(), (*codes.shape, width))
        latents = self._model.post_quant_conv(entries)
        # Not `decode`: it takes entries or codes, by a key of the checkpoint's configuration.
        is_spatial = self._model.config.norm_type == "spatial"
        pixels: Tensor = self._model.decoder(latents, entries if is_spatial else None)
        return pixels

    def to(self, device: torch.device) -> Self:
        """See ``CodecNet``."""
        self._model.to(device)
        return self

    def save_pretrained(self, directory: Path) -> None:
        """See ``CodecNet``."""
        self._model.save_pretrained(directory)


def load_vq_model(directory: Path) -> VQModelNet:
    """Load a ``diffusers.VQModel`` in float32."""
    ensure_torchvision()
    from diffusers import VQModel

    return VQModelNet(whole(VQModel, directory))


class Emu3Net:
    """Emu3's codec, for single pictures.

    Args:
        model: ``Emu3VQVAE`` in evaluation mode.
        processor: Its ``Emu3ImageProcessor``: which mean and deviation the net's pictures have.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor
        self.stride, self.num_codes = int(model.spatial_scale_factor), int(model.config.codebook_size)
        mean, std = (
            torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std)
        )
        self._mean, self._std = 2 * mean - 1, 2 * std  # of pictures in -1..1 rather than 0..1

    def to_codes(self, pictures: Tensor) -> Tensor:
        """See ``CodecNet``."""
        sizes = torch.tensor([pictures.shape[2:]] * len(pictures))
        mean, std = self._mean.to(pictures.device), self._std.to(pictures.device)
        return torch.stack(self._model.encode((pictures - mean) / std, sizes).image_tokens)

    def to_pixels(self, codes: Tensor) -> Tensor:
        """See ``CodecNet``."""
        pixels: Tensor = self._model.decode(codes)
        return pixels * self._std.to(pixels.device) + self._mean.to(pixels.device)

    def to(self, device: torch.device) -> Self:
        """See ``CodecNet``."""
        self._model.to(device)
        return self

    def save_pretrained(self, directory: Path) -> None:
        """See ``CodecNet``."""
        self._model.save_pretrained(directory)
        self._processor.save_pretrained(directory)


def load_emu3(files: CodecFiles) -> Emu3Net:
    """Load Emu3's codec in float32, from a whole Emu3 checkpoint the codec's weights alone.

    Raises:
        ConfigError: If weights of the codec are missing.
    """
    ensure_torchvision()
    from transformers import Emu3Config, Emu3ImageProcessor, Emu3VQVAE

    directory = files.directory
    processor = Emu3ImageProcessor.from_pretrained(directory)
    if files.kind == "Emu3VQVAE":
        return Emu3Net(whole(Emu3VQVAE, directory, dtype=torch.float32), processor)
    model = Emu3VQVAE(Emu3Config.from_pretrained(directory).vq_config).float()
    weights = dict(_weights_of_part(directory))
    _refuse_missing([name for name in model.state_dict() if name not in weights], directory)
    model.load_state_dict(weights)
    return Emu3Net(model.eval(), processor)


def _weights_of_part(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Read the codec's weights out of a whole checkpoint, by their names in the codec."""
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                if EMU3_PART in name:
                    yield name.rpartition(EMU3_PART)[2], file.get_tensor(name)
