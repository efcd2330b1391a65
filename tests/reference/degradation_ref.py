"""Slow, obvious versions of the degradation's filters."""

from __future__ import annotations

import numpy as np


def reflect(index: int, length: int) -> int:
    """Index after mirroring at the edges, the edge pixel not repeated."""
    while not 0 <= index < length:
        index = -index if index < 0 else 2 * (length - 1) - index
    return index


def correlate(planes: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlation with reflected edges, one output pixel at a time."""
    out = np.zeros(planes.shape, dtype=np.float64)
    pad = kernel.shape[0] // 2
    _, height, width = planes.shape
    for y in range(height):
        for x in range(width):
            for dy in range(-pad, pad + 1):
                for dx in range(-pad, pad + 1):
                    value = planes[:, reflect(y + dy, height), reflect(x + dx, width)]
                    out[:, y, x] += kernel[dy + pad, dx + pad] * value
    return out


def gaussian(size: int, sigma_x: float, sigma_y: float, rotation: float) -> np.ndarray:
    """Gaussian kernel by its covariance matrix."""
    turn = np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
    inverse = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
    kernel = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            offset = np.array([column - size // 2, row - size // 2])
            kernel[row, column] = np.exp(-0.5 * offset @ inverse @ offset)
    return kernel / kernel.sum()
