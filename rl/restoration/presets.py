"""Degradation presets: the numbers of each, and how they shrink for small pictures."""

from __future__ import annotations

from dataclasses import dataclass

from rl.errors import ConfigError

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPreset:
    """One order of the degradation: blur, resize, noise, JPEG. Defaults are Real-ESRGAN's, the same in both orders."""

    blur_prob: float
    """Share of pictures that are blurred, 0..1."""
    kernel_sizes: tuple[int, int] = (7, 21)
    """Smallest and largest odd kernel edge, pixels at ``reference_px``."""
    sinc_prob: float = 0.1
    """Share of blurs that are a sinc (ringing), 0..1."""
    sigma: Range
    """Gaussian width, pixels at ``reference_px``; aniso kernels draw two."""
    resize_probs: tuple[float, float, float]
    """Shares of up, down and keep."""
    resize_range: Range
    """Smallest and largest scale: of the picture (first order), of the output size (second)."""
    gaussian_prob: float = 0.5
    """Share of Gaussian noise; the rest is Poisson, 0..1."""
    noise_sigma: Range
    """Gaussian noise, 8-bit steps."""
    poisson_scale: Range
    """Factor on the Poisson noise."""
    gray_prob: float = 0.4
    """Share of noise that is equal in all channels, 0..1."""
    jpeg_quality: tuple[int, int]
    """JPEG quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A whole second-order degradation."""

    name: str
    reference_px: int
    """Shorter edge at which kernel sizes and sigmas hold."""
    first: OrderPreset
    second: OrderPreset
    kernel_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Shares of iso, aniso, generalized iso, generalized aniso, plateau iso, plateau aniso."""
    generalized_beta: Range = (0.5, 4.0)
    """Exponent; half the draws are below 1."""
    plateau_beta: Range = (1.0, 2.0)
    """Exponent; half the draws are below 1 where the range allows."""
    final_kernel_sizes: tuple[int, int] = (7, 21)
    """Of the last sinc, pixels at ``reference_px``."""
    final_sinc_prob: float = 0.8
    """Share of pictures with a last sinc, 0..1."""
    min_shrink: float = 0.5
    """Kernels never shrink below this share of their size."""

    def shrink(self, height: int, width: int) -> float:
        """Return the factor on kernel sizes and sigmas for a picture.

        It is ``shorter edge / reference_px``, held in ``min_shrink..1``: a kernel made for a 400 px crop
        would wipe out a 64 px one, and one shrunk in proportion could not be seen.
        """
        return min(1.0, max(self.min_shrink, min(height, width) / self.reference_px))


_REALESRGAN_FIRST = OrderPreset(
    blur_prob=1.0,
    sigma=(0.2, 3.0),
    resize_probs=(0.2, 0.7, 0.1),
    resize_range=(0.15, 1.5),
    noise_sigma=(1.0, 30.0),
    poisson_scale=(0.05, 3.0),
    jpeg_quality=(30, 95),
)
_REALESRGAN_SECOND = OrderPreset(
    blur_prob=0.8,
    sigma=(0.2, 1.5),
    resize_probs=(0.3, 0.4, 0.3),
    resize_range=(0.3, 1.2),
    noise_sigma=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
    jpeg_quality=(30, 95),
)
_LIGHT_FIRST = OrderPreset(
    blur_prob=1.0,
    sigma=(0.2, 1.5),
    resize_probs=(0.2, 0.7, 0.1),
    resize_range=(0.3, 1.5),
    noise_sigma=(1.0, 15.0),
    poisson_scale=(0.05, 2.0),
    jpeg_quality=(60, 95),
)
_LIGHT_SECOND = OrderPreset(
    blur_prob=0.5,
    kernel_sizes=(7, 11),
    sigma=(0.2, 1.0),
    resize_probs=(0.3, 0.4, 0.3),
    resize_range=(0.6, 1.2),
    noise_sigma=(1.0, 12.0),
    poisson_scale=(0.05, 1.0),
    jpeg_quality=(60, 100),
)
_MILD_FIRST = OrderPreset(
    blur_prob=1.0,
    kernel_sizes=(9, 13),
    sinc_prob=0.05,
    sigma=(0.2, 4.0),
    resize_probs=(0.2, 0.7, 0.1),
    resize_range=(0.7, 1.3),
    gaussian_prob=0.8,
    noise_sigma=(0.5, 1.0),
    poisson_scale=(0.01, 0.05),
    jpeg_quality=(90, 95),
)
_MILD_SECOND = OrderPreset(
    blur_prob=0.2,
    kernel_sizes=(3, 5),
    sinc_prob=0.05,
    sigma=(0.2, 0.6),
    resize_probs=(0.3, 0.4, 0.3),
    resize_range=(0.6, 1.4),
    gaussian_prob=0.8,
    noise_sigma=(0.5, 16.0),
    poisson_scale=(0.05, 1.2),
    jpeg_quality=(35, 95),
)

PRESETS = {
    "realesrgan": Preset(
        name="realesrgan", reference_px=400, first=_REALESRGAN_FIRST, second=_REALESRGAN_SECOND
    ),
    "light": Preset(name="light", reference_px=400, first=_LIGHT_FIRST, second=_LIGHT_SECOND),
    "mild": Preset(
        name="mild",
        reference_px=64,
        first=_MILD_FIRST,
        second=_MILD_SECOND,
        kernel_probs=(0.6, 0.3, 0.03, 0.02, 0.03, 0.02),
        final_kernel_sizes=(3, 7),
        final_sinc_prob=0.2,
    ),
}
"""``realesrgan``: x4plus training options (Wang et al. 2021). ``light``: the set StableSR's test pictures
use. ``mild``: ours, for 64 px crops: in each slot one order dominates, so that its label can be seen in a
16 px picture, and enough is left to restore it."""


def get_preset(name: str) -> Preset:
    """Look a preset up.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"data.degradation={name}: no such preset; use one of {', '.join(PRESETS)}")
    return PRESETS[name]
