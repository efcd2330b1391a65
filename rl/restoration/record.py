"""Degradation record: everything that was drawn to degrade one picture."""

from __future__ import annotations

from dataclasses import dataclass

from rl.restoration.kernels import ResizeMode

NO_BLUR = "none"
SINC = "sinc"
KERNEL_KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
RESIZE_FIRST = "resize, jpeg"
JPEG_FIRST = "jpeg, resize"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blur:
    """A drawn blur."""

    kind: str
    """One of ``KERNEL_KINDS``, ``sinc`` or ``none``."""
    size: int = 0
    """Kernel edge, pixels."""
    sigma_x: float = 0.0
    """Pixels, as applied (shrunk)."""
    sigma_y: float = 0.0
    """Pixels, as applied (shrunk)."""
    rotation: float = 0.0
    """Radians; 0 for isotropic kernels."""
    beta: float = 0.0
    """Exponent of generalized and plateau kernels."""
    cutoff: float = 0.0
    """Of a sinc, radians a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """A drawn resize."""

    direction: str
    """``upsample``, ``downsample`` or ``keep``."""
    scale: float
    """Of the picture (first order) or of the output size (second)."""
    mode: ResizeMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A drawn noise."""

    kind: str
    """``gaussian`` or ``poisson``."""
    level: float
    """Sigma in 8-bit steps, or the Poisson scale."""
    gray: bool
    """Whether all channels got the same noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was drawn in one order."""

    blur: Blur
    resize: Resize
    noise: Noise
    quality: int
    """JPEG quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationRecord:
    """Everything that was drawn for one picture, in the order it is applied."""

    preset: str
    shrink: float
    """Factor on kernel sizes and sigmas, 0..1."""
    first: Order
    second: Order
    tail: str
    """``resize, jpeg`` or ``jpeg, resize``: which comes first at the end."""
    tail_mode: ResizeMode
    """Of the last resize, to the exact output size."""
    final_sinc: Blur
    """Right after the last resize; kind ``sinc`` or ``none``."""
