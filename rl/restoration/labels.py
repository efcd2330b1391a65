"""Labels of a degradation: the words of its block, from what was drawn.

Five slots in the order of the paper's example: blur, resize, noise, compression, resize.

- *blur*, *noise*, *compression*: the strongest of both orders, as equal-width thirds of the preset's whole
  range (from the weakest to the strongest value either order can draw): light, medium, heavy. The strongest
  is what can be seen: a weak second order does not undo a strong first one.
- *resize*: what the first order did (slot 2) and what the second did relative to the output size (slot 5).

Values compared: blur by its sigma before shrinking (geometric mean of both axes; none is 0), a sinc by how
much of the band it cuts; noise by its sigma or its Poisson scale, each in its own range; compression by
quality. The published work gives no bins; a labeller of one's own replaces ``label``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from rl.restoration.degradation import lowest_cutoff
from rl.restoration.presets import Preset, Range, get_preset
from rl.restoration.record import NO_BLUR, SINC, Blur, DegradationRecord, Noise

SLOTS = ("blur", "resize", "noise", "compression", "resize")
"""What each slot speaks of."""
LEVELS = ("light", "medium", "heavy")
DIRECTIONS = ("downsample", "upsample", "keep")
VOCABULARY: tuple[tuple[str, ...], ...] = (LEVELS, DIRECTIONS, LEVELS, LEVELS, DIRECTIONS)
"""Words each slot can have."""


def label(record: DegradationRecord) -> tuple[str, ...]:
    """Name what degraded a picture.

    Returns:
        One word a slot, e.g. ``("medium", "downsample", "light", "heavy", "upsample")``.
    """
    preset = get_preset(record.preset)
    orders = (record.first, record.second)
    blur = max(blur_strength(order.blur, preset, record.shrink) for order in orders)
    noise = max(noise_strength(order.noise, preset) for order in orders)
    compression = max(compression_strength(order.quality, preset) for order in orders)
    return (
        _level(blur),
        record.first.resize.direction,
        _level(noise),
        _level(compression),
        record.second.resize.direction,
    )


def blur_strength(blur: Blur, preset: Preset, shrink: float) -> float:
    """Return where a blur lies in the preset's range, 0 (weakest, or none) to 1."""
    if blur.kind == NO_BLUR:
        return 0.0
    if blur.kind == SINC:
        low = lowest_cutoff(blur.size)
        return (math.pi - blur.cutoff) / (math.pi - low)
    sigma = math.sqrt(blur.sigma_x * blur.sigma_y) / shrink
    return _position(sigma, _span(preset.first.sigma, preset.second.sigma))


def noise_strength(noise: Noise, preset: Preset) -> float:
    """Return where a noise lies in its kind's range, 0..1."""
    if noise.kind == "gaussian":
        return _position(noise.level, _span(preset.first.noise_sigma, preset.second.noise_sigma))
    return _position(noise.level, _span(preset.first.poisson_scale, preset.second.poisson_scale))


def compression_strength(quality: int, preset: Preset) -> float:
    """Return where a JPEG quality lies in the preset's range, 0 (best quality) to 1."""
    return 1.0 - _position(quality, _span(preset.first.jpeg_quality, preset.second.jpeg_quality))


def degradation_text(labels: Sequence[str]) -> str:
    """Write labels as the body of the degradation block.

    Returns:
        E.g. ``medium blur, downsample, light noise, heavy compression, upsample``.
    """
    return ", ".join(slot_texts(labels))


def slot_texts(labels: Sequence[str]) -> tuple[str, ...]:
    """Return each label as the degradation block writes it; labels that are not ours stay as they are.

    Returns:
        E.g. ``("medium blur", "downsample", "light noise", "heavy compression", "upsample")``.
    """
    if len(labels) != len(SLOTS):
        return tuple(labels)
    return tuple(
        f"{label} {slot}" if slot != "resize" and label in LEVELS else label
        for label, slot in zip(labels, SLOTS, strict=True)
    )


def all_degradation_texts() -> list[str]:
    """List every text ``degradation_text`` can give (243)."""
    return [degradation_text(labels) for labels in product(*VOCABULARY)]


def _span(*spans: Range | tuple[int, int]) -> Range:
    return min(span[0] for span in spans), max(span[1] for span in spans)


def _position(value: float, span: Range) -> float:
    return min(1.0, max(0.0, (value - span[0]) / (span[1] - span[0])))


def _level(strength: float) -> str:
    return LEVELS[min(2, int(strength * 3))]
