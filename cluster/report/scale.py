"""Axes of the report's charts: where a value is drawn, which values are labelled, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to one axis of the drawing."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        low, high, at = (log10(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1.0)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round values, about ``count`` of them, that span ``low .. high``."""
    span = high - low
    if span <= max(1e-9 * max(abs(low), abs(high)), 1e-30):  # flat, but for rounding
        span = max(abs(high), 1e-30) if high else 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if span / (m * magnitude) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def short(value: float) -> str:
    """Format a value for an axis or a tooltip."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.4g}"


def coordinate(value: float) -> str:
    """Format a coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def log10(value: float) -> float:
    """Return the logarithm, of a tiny value where it has none."""
    return math.log10(max(value, 1e-12))
