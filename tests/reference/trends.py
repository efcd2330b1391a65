"""Slopes and correlations in plain Python, one number after another."""

import math
from fractions import Fraction


def slope_and_t(points):
    """Least squares by the normal equations, in exact fractions until the last root."""
    n = len(points)
    xs, ys = [Fraction(x) for x, _ in points], [Fraction(y) for _, y in points]
    mean_x, mean_y = sum(xs) / n, sum(ys) / n
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    rounding = Fraction(1e-6 * max(1.0, *(abs(float(y)) for y in ys))) ** 2
    return float(slope), float(slope) / math.sqrt((rest / (n - 2) + rounding) / spread)


def within_groups(groups, first, second):
    """Pearson of two columns after each group's own mean is taken away; ``groups``: name -> [(value, valid)]."""
    top = left = right = 0.0
    for group in groups:
        pairs = [(a, b) for (a, x), (b, y) in zip(group[first], group[second], strict=True) if x and y]
        if not pairs:
            continue
        mean_a = sum(a for a, _ in pairs) / len(pairs)
        mean_b = sum(b for _, b in pairs) / len(pairs)
        top += sum((a - mean_a) * (b - mean_b) for a, b in pairs)
        left += sum((a - mean_a) ** 2 for a, _ in pairs)
        right += sum((b - mean_b) ** 2 for _, b in pairs)
    return top / math.sqrt(left * right) if left * right > 1e-20 else None
