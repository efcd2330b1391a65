"""Second-order degradation of a photograph, with a record of everything that was drawn.

Two times blur, resize, noise and JPEG; then a last resize and sinc filter, before or after the last
JPEG. The published pipeline returns only the picture; the labels of our prompts need what was drawn.

Differs from the paper's pipeline (Real-ESRGAN): JPEG is PIL's real encoder, not the differentiable
approximation, and takes 8-bit pixels; kernels shrink for small pictures (``Preset.shrink``); every draw is per
picture, where the original draws blur and resize once a batch. There is no pair pool, because draws are independent
anyway. The photograph is not sharpened before (its released training degrades, and compares with, an unsharp-masked
truth). A resize samples by the ratio of the two sizes, the first one too, where torch samples by the drawn scale;
sizes are rounded to the nearest pixel, where the original cuts them off.

Source:
    Wang et al. 2021, "Real-ESRGAN", section 3 and its x4plus training options.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from rl.restoration.kernels import (
    RESIZE_MODES,
    ResizeMode,
    Shape,
    blur_kernel,
    filter_planes,
    resize_planes,
    sinc_kernel,
    to_bytes,
)
from rl.restoration.presets import OrderPreset, Preset, Range, get_preset
from rl.restoration.record import (
    JPEG_FIRST,
    KERNEL_KINDS,
    NO_BLUR,
    RESIZE_FIRST,
    SINC,
    Blur,
    DegradationRecord,
    Noise,
    Order,
    Resize,
)
from rl.types import Floats, Pixels

MIN_PX = 4
"""No resize makes an edge smaller than this, pixels."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""


def degrade(photo: Pixels, *, scale: int, preset: str, seed: int) -> tuple[Pixels, DegradationRecord]:
    """Degrade a photograph to ``1/scale`` of its size.

    Args:
        photo: Ground truth ``uint8[H, W, 3]``; both edges divisible by ``scale``.
        scale: How many times smaller the result is.
        preset: Name of the preset.
        seed: The same seed, photograph and preset give the same bytes.

    Returns:
        The degraded photograph ``uint8[H / scale, W / scale, 3]`` and what was drawn.

    Raises:
        ValueError: If an edge is not divisible by ``scale``.
        ConfigError: If the preset is unknown.
    """
    height, width, _ = photo.shape
    if height % scale or width % scale:
        raise ValueError(f"photo {height}x{width}: edges must be divisible by scale {scale}")
    rng = np.random.default_rng(seed)
    record = draw(get_preset(preset), height, width, rng)
    return apply(photo, record, scale=scale, rng=rng), record


def draw(preset: Preset, height: int, width: int, rng: np.random.Generator) -> DegradationRecord:
    """Draw every parameter for a photograph of this size."""
    shrink = preset.shrink(height, width)
    first = _draw_order(preset, preset.first, shrink, rng)
    second = _draw_order(preset, preset.second, shrink, rng)
    final = Blur(kind=NO_BLUR)
    if rng.random() < preset.final_sinc_prob:
        size = _draw_size(preset.final_kernel_sizes, shrink, rng)
        final = Blur(kind=SINC, size=size, cutoff=rng.uniform(math.pi / 3, math.pi))
    return DegradationRecord(
        preset=preset.name,
        shrink=shrink,
        first=first,
        second=second,
        tail=RESIZE_FIRST if rng.random() < 0.5 else JPEG_FIRST,
        tail_mode=_draw_mode(rng),
        final_sinc=final,
    )


def apply(photo: Pixels, record: DegradationRecord, *, scale: int, rng: np.random.Generator) -> Pixels:
    """Degrade a photograph as a record says; ``rng`` draws the noise only."""
    low = (photo.shape[0] // scale, photo.shape[1] // scale)
    planes = np.ascontiguousarray(photo.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    planes = _apply_order(planes, record.first, photo.shape[:2], rng)
    planes = jpeg(planes, record.first.quality)
    planes = _apply_order(planes, record.second, low, rng)
    if record.tail == RESIZE_FIRST:
        planes = jpeg(_finish(planes, record, low), record.second.quality)
    else:
        planes = _finish(jpeg(planes, record.second.quality), record, low)
    return to_bytes(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def add_noise(planes: Floats, noise: Noise, rng: np.random.Generator) -> Floats:
    """Add Gaussian or Poisson noise and clip to 0..1 (not rounded).

    Poisson noise follows the picture's own number of grey levels: with ``v`` the next power of two,
    ``poisson(x v) / v - x``, times the level.
    """
    if noise.kind == "gaussian":
        shape = (1, *planes.shape[1:]) if noise.gray else planes.shape
        added = rng.standard_normal(shape, dtype=np.float32) * np.float32(noise.level / 255)
    else:
        source = np.tensordot(LUMA, planes, axes=1)[None] if noise.gray else planes
        levels = np.rint(np.clip(source, 0, 1) * 255).astype(np.uint8)
        num_levels = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
        peak = 2.0 ** math.ceil(math.log2(num_levels))
        clean = levels.astype(np.float32) / np.float32(255)
        drawn = rng.poisson(clean * peak).astype(np.float32)
        added = (drawn / np.float32(peak) - clean) * np.float32(noise.level)
    noisy: Floats = np.clip(planes + added, 0, 1, dtype=np.float32)
    return noisy


def jpeg(planes: Floats, quality: int) -> Floats:
    """Encode and decode with PIL's JPEG, colour at half size (4:2:0)."""
    pixels = to_bytes(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(buffer))
    return np.ascontiguousarray(decoded.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def _apply_order(planes: Floats, order: Order, target: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Blur, resize relative to ``target`` and add noise."""
    planes = filter_planes(planes, kernel_of(order.blur)) if order.blur.kind != NO_BLUR else planes
    height, width = (max(MIN_PX, round(edge * order.resize.scale)) for edge in target)
    planes = resize_planes(planes, height, width, order.resize.mode)
    return add_noise(planes, order.noise, rng)


def _finish(planes: Floats, record: DegradationRecord, low: tuple[int, int]) -> Floats:
    """Resize to the exact output size, and ring."""
    planes = resize_planes(planes, low[0], low[1], record.tail_mode)
    return (
        planes if record.final_sinc.kind == NO_BLUR else filter_planes(planes, kernel_of(record.final_sinc))
    )


def kernel_of(blur: Blur) -> Floats:
    """Make the kernel of a drawn blur, ``[size, size]``."""
    if blur.kind == SINC:
        return sinc_kernel(blur.size, blur.cutoff)
    shape: Shape = "gaussian"
    if blur.kind.startswith("generalized"):
        shape = "generalized"
    elif blur.kind.startswith("plateau"):
        shape = "plateau"
    return blur_kernel(
        blur.size,
        sigma_x=blur.sigma_x,
        sigma_y=blur.sigma_y,
        rotation=blur.rotation,
        shape=shape,
        beta=blur.beta,
    )


def _draw_order(preset: Preset, order: OrderPreset, shrink: float, rng: np.random.Generator) -> Order:
    return Order(
        blur=_draw_blur(preset, order, shrink, rng),
        resize=_draw_resize(order, rng),
        noise=_draw_noise(order, rng),
        quality=int(rng.integers(order.jpeg_quality[0], order.jpeg_quality[1] + 1)),
    )


def _draw_blur(preset: Preset, order: OrderPreset, shrink: float, rng: np.random.Generator) -> Blur:
    if rng.random() >= order.blur_prob:
        return Blur(kind=NO_BLUR)
    size = _draw_size(order.kernel_sizes, shrink, rng)
    if rng.random() < order.sinc_prob:
        return Blur(kind=SINC, size=size, cutoff=rng.uniform(lowest_cutoff(size), math.pi))
    kind = KERNEL_KINDS[rng.choice(len(KERNEL_KINDS), p=preset.kernel_probs)]
    sigma_x = rng.uniform(*order.sigma) * shrink
    is_aniso = kind.endswith("aniso")
    beta = 0.0
    if kind.startswith("generalized"):
        beta = _draw_beta(preset.generalized_beta, rng)
    elif kind.startswith("plateau"):
        beta = _draw_beta(preset.plateau_beta, rng)
    return Blur(
        kind=kind,
        size=size,
        sigma_x=sigma_x,
        sigma_y=rng.uniform(*order.sigma) * shrink if is_aniso else sigma_x,
        rotation=rng.uniform(-math.pi, math.pi) if is_aniso else 0.0,
        beta=beta,
    )


def lowest_cutoff(size: int) -> float:
    """Return the lowest cutoff of a sinc kernel of this size: larger kernels may cut off more."""
    return math.pi / 3 if size < 13 else math.pi / 5


def _draw_size(sizes: tuple[int, int], shrink: float, rng: np.random.Generator) -> int:
    """Draw an odd kernel edge of at least 3 pixels and shrink it."""
    size = 2 * int(rng.integers(sizes[0] // 2, sizes[1] // 2 + 1)) + 1
    return max(3, 2 * round(size * shrink / 2 - 0.5) + 1)


def _draw_beta(span: Range, rng: np.random.Generator) -> float:
    """Draw an exponent: half the time below 1, else above."""
    below = rng.random() < 0.5
    return rng.uniform(span[0], 1.0) if below else rng.uniform(1.0, span[1])


def _draw_mode(rng: np.random.Generator) -> ResizeMode:
    return RESIZE_MODES[rng.integers(len(RESIZE_MODES))]


def _draw_resize(order: OrderPreset, rng: np.random.Generator) -> Resize:
    direction = ("upsample", "downsample", "keep")[rng.choice(3, p=order.resize_probs)]
    low, high = order.resize_range
    span = {"upsample": (1.0, high), "downsample": (low, 1.0), "keep": (1.0, 1.0)}[direction]
    return Resize(direction=direction, scale=rng.uniform(*span), mode=_draw_mode(rng))


def _draw_noise(order: OrderPreset, rng: np.random.Generator) -> Noise:
    is_gaussian = rng.random() < order.gaussian_prob
    span = order.noise_sigma if is_gaussian else order.poisson_scale
    return Noise(
        kind="gaussian" if is_gaussian else "poisson",
        level=rng.uniform(*span),
        gray=bool(rng.random() < order.gray_prob),
    )
