"""Small picture codec made from nothing: k-means of patches, and a conv encoder and decoder around it.

A patch of ``stride x stride`` pixels becomes its first principal components; the nearest of ``num_codes`` rows of the
codebook is its code, and the row's patch its picture. Nets that see the patches around add to the components before,
and to the patch after. Their last layers are zero at first, so the codec starts as k-means, with every code used.

Letters: B pictures, H W pixels, h w patches, P values of a patch (``3 stride^2``), d components, K codes, N patches.

Source:
    van den Oord et al. 2017 (Neural Discrete Representation Learning), section 3.

Differs from the paper:
    The codebook starts by k-means rather than at random, and PCA is kept beside the nets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

LATENT_STD = 3.0
"""Deviation of components. Adam moves every weight as far: the larger this is, the slower codebook and encoder move
beside the decoder. At 1 they undo k-means before the decoder has learnt anything."""
NUM_ROUNDS = 10
"""Of k-means."""
MAX_PATCHES_A_CODE = 30
"""Patches for k-means."""


class PatchCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Vector quantiser of patches; a ``CodecNet`` in the layout of a diffusers model.

    Args:
        stride: Pixels of an edge of a patch.
        num_codes: K.
        num_components: d.
        width: Of the nets.
        num_encoder_blocks: Residual blocks before the codebook.
        num_decoder_blocks: Residual blocks behind it.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        stride: int = 4,
        num_codes: int = 1024,
        num_components: int = 16,
        width: int = 32,
        num_encoder_blocks: int = 1,
        num_decoder_blocks: int = 2,
    ) -> None:
        super().__init__()
        area = 3 * stride * stride
        self.stride, self.num_codes = stride, num_codes
        self.register_buffer("mean", torch.zeros(area, 1, 1))
        self.register_buffer("basis", torch.zeros(num_components, area))
        self.codebook = nn.Embedding(num_codes, num_components)
        self.encoder = _net(area, num_components, width, num_encoder_blocks)
        self.decoder = _net(num_components, area, width, num_decoder_blocks)

    @torch.no_grad()
    def start(self, patches: Tensor, generator: torch.Generator) -> None:
        """Set components and codebook by PCA and k-means.

        Args:
            patches: ``float32[N, P]``, of pictures in -1..1; at least as many as codes.
            generator: Of the first codebook.
        """
        mean = patches.mean(0)
        basis = torch.linalg.svd(patches - mean, full_matrices=False).Vh[: self.config.num_components]
        std = ((patches - mean) @ basis.T).square().mean().sqrt()
        self.mean.copy_(mean[:, None, None])
        self.basis.copy_(basis / std * LATENT_STD)
        self.codebook.weight.copy_(kmeans((patches - mean) @ self.basis.T, self.num_codes, generator))

    def latents(self, pictures: Tensor) -> Tensor:
        """Turn pictures ``[B, 3, H, W]`` in -1..1 into what is rounded to codes, ``[B, d, h, w]``."""
        patches = F.pixel_unshuffle(pictures, self.stride) - self.mean
        latents: Tensor = F.conv2d(patches, self.basis[:, :, None, None]) + self.encoder(patches)
        return latents

    def nearest(self, latents: Tensor) -> Tensor:
        """Return the nearest codes, ``int64[B, h, w]``."""
        with torch.no_grad():
            rows = latents.permute(0, 2, 3, 1)
            return nearest(rows.flatten(0, 2), self.codebook.weight).view(rows.shape[:3])

    def entries(self, codes: Tensor) -> Tensor:
        """Return the codebook's rows, ``[B, d, h, w]``."""
        entries: Tensor = self.codebook(codes).permute(0, 3, 1, 2).contiguous()
        return entries

    def pixels(self, entries: Tensor) -> Tensor:
        """Turn rows of the codebook ``[B, d, h, w]`` into pictures ``[B, 3, H, W]``."""
        # The basis is orthonormal but for its scale.
        inverse = self.basis.T / self.basis[0].square().sum()
        patches = F.conv2d(entries, inverse[:, :, None, None]) + self.mean
        return F.pixel_shuffle(patches + self.decoder(entries / LATENT_STD), self.stride)

    def to_codes(self, pictures: Tensor) -> Tensor:
        """See ``CodecNet``."""
        return self.nearest(self.latents(pictures))

    def to_pixels(self, codes: Tensor) -> Tensor:
        """See ``CodecNet``."""
        return self.pixels(self.entries(codes))


class _Block(nn.Module):
    """Residual block over patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[B, width, h, w]``."""
        mixed: Tensor = self.mix(F.silu(self.conv(self.norm(x))))
        return x + mixed


def _net(num_in: int, num_out: int, width: int, num_blocks: int) -> nn.Sequential:
    """Make a net whose last layer is zero."""
    last = nn.Conv2d(width, num_out, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]  # there is one
    return nn.Sequential(
        nn.Conv2d(num_in, width, 3, padding=1), *[_Block(width) for _ in range(num_blocks)], last
    )


def patches_of(pictures: Sequence[Tensor], stride: int, most: int, generator: torch.Generator) -> Tensor:
    """Draw patches ``[N, P]``, at most ``most``, from pictures ``[B, 3, H, W]``, one tensor a size."""
    patches = [F.pixel_unshuffle(batch, stride).permute(0, 2, 3, 1).flatten(0, 2) for batch in pictures]
    drawn = torch.cat(patches)
    return drawn[torch.randperm(len(drawn), generator=generator)[:most]]


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest row of the codebook ``[K, d]`` for each row ``[N, d]``."""
    return _squared_distances(rows, codebook).min(1).indices


def _squared_distances(rows: Tensor, codebook: Tensor) -> Tensor:
    """Return ``[N, K]``, less each row's own square, which changes no order."""
    return torch.addmm(codebook.square().sum(1)[None], rows, codebook.T, alpha=-2)


def kmeans(rows: Tensor, num_codes: int, generator: torch.Generator) -> Tensor:
    """Cluster rows ``[N, d]``; a mean that no row is nearest to is moved to one of the rows that lie farthest off.

    Returns:
        ``[num_codes, d]``.
    """
    means = rows[torch.randperm(len(rows), generator=generator)[:num_codes]].clone()
    for _ in range(NUM_ROUNDS):
        distances, codes = _squared_distances(rows, means).min(1)
        counts = torch.bincount(codes, minlength=num_codes)
        sums = torch.zeros_like(means).index_add_(0, codes, rows)
        means = sums / counts.clamp(min=1)[:, None]
        empty = torch.nonzero(counts == 0).flatten()
        farthest = (distances + rows.square().sum(1)).topk(len(empty)).indices
        means[empty] = rows[farthest]
    return means
