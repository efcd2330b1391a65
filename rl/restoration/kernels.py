"""Blur kernels, resizing matrices and the two filters that use them.

Pure functions of numpy arrays; no randomness. Pictures here are planes ``float32[3, H, W]`` in 0..1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import j1

from rl.types import Floats, Pixels

Shape = Literal["gaussian", "generalized", "plateau"]
ResizeMode = Literal["area", "bilinear", "bicubic"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")


def blur_kernel(
    size: int, *, sigma_x: float, sigma_y: float, rotation: float, shape: Shape, beta: float
) -> Floats:
    """Make a bell-shaped kernel that sums to 1.

    With ``q`` the squared Mahalanobis distance, the profiles are ``exp(-q/2)`` (gaussian),
    ``exp(-q**beta/2)`` (generalized; flatter above 1, more peaked below) and ``1/(1+q**beta)`` (plateau).

    Args:
        size: Odd edge length, pixels.
        sigma_x: Width along the first axis before rotation, pixels.
        sigma_y: Width along the second axis; equal for isotropic kernels, pixels.
        rotation: Angle, radians.
        shape: Profile.
        beta: Exponent of the last two profiles.

    Returns:
        ``[size, size]``.

    Source:
        Wang et al. 2021 (Real-ESRGAN), section 3.2.
    """
    y, x = _grid(size)
    along = np.cos(rotation) * x + np.sin(rotation) * y
    across = np.cos(rotation) * y - np.sin(rotation) * x
    q = (along / sigma_x) ** 2 + (across / sigma_y) ** 2
    if shape == "gaussian":
        kernel = np.exp(-0.5 * q)
    elif shape == "generalized":
        kernel = np.exp(-0.5 * q**beta)
    else:
        kernel = 1.0 / (1.0 + q**beta)
    return _normalized(kernel)


def sinc_kernel(size: int, cutoff: float) -> Floats:
    """Make the circular ideal low-pass kernel that causes ringing; sums to 1.

    Args:
        size: Odd edge length, pixels.
        cutoff: Highest frequency that passes, radians a pixel (pi is the Nyquist limit).

    Returns:
        ``[size, size]``; has negative values.

    Source:
        Wang et al. 2021 (Real-ESRGAN), eq. 6: ``w * J1(w r) / (2 pi r)``, ``w**2 / (4 pi)`` at 0.
    """
    y, x = _grid(size)
    radius = np.hypot(x, y)
    radius[size // 2, size // 2] = 1.0
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return _normalized(kernel)


def filter_planes(planes: Floats, kernel: Floats) -> Floats:
    """Correlate every plane with a kernel, edges reflected.

    Args:
        planes: ``[3, H, W]``.
        kernel: ``[size, size]``, odd.

    Returns:
        ``[3, H, W]``.
    """
    pad = kernel.shape[0] // 2
    _, height, width = planes.shape
    padded = np.pad(planes, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
    shape = (fft.next_fast_len(padded.shape[1], real=True), fft.next_fast_len(padded.shape[2], real=True))
    spectrum = fft.rfft2(padded, shape) * fft.rfft2(kernel[::-1, ::-1], shape)
    full = fft.irfft2(spectrum, shape)
    return np.ascontiguousarray(
        full[:, 2 * pad : 2 * pad + height, 2 * pad : 2 * pad + width], dtype=np.float32
    )


def resize_planes(planes: Floats, height: int, width: int, mode: ResizeMode) -> Floats:
    """Resize without antialias, as the published degradation does (``area`` averages, the rest alias).

    Args:
        planes: ``[3, H, W]``.
        height: Of the result, pixels.
        width: Of the result, pixels.
        mode: Interpolation.

    Returns:
        ``[3, height, width]``.
    """
    rows = resize_matrix(planes.shape[1], height, mode)
    columns = resize_matrix(planes.shape[2], width, mode)
    resized: Floats = np.matmul(np.matmul(rows, planes), columns.T)
    return resized


@lru_cache(maxsize=512)
def resize_matrix(num_in: int, num_out: int, mode: ResizeMode) -> Floats:
    """Make the matrix ``[num_out, num_in]`` that resizes one axis; its rows sum to 1. Read-only.

    ``area`` averages the input cells an output cell touches, ``bilinear`` and ``bicubic`` (a = -0.75)
    interpolate at cell centres and repeat the edge: the definitions of torch's ``interpolate``.
    """
    matrix = np.zeros((num_out, num_in), dtype=np.float64)
    if mode == "area":
        for row in range(num_out):
            first, last = row * num_in // num_out, -(-(row + 1) * num_in // num_out)
            matrix[row, first:last] = 1.0 / (last - first)
    else:
        centers = (np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5
        if mode == "bilinear":
            centers = np.maximum(centers, 0.0)
        base = np.floor(centers).astype(np.int64)
        weight = _triangle if mode == "bilinear" else _cubic
        for tap in range(-1, 3):
            column = np.clip(base + tap, 0, num_in - 1)
            np.add.at(matrix, (np.arange(num_out), column), weight(np.abs(centers - (base + tap))))
    result = matrix.astype(np.float32)
    result.flags.writeable = False
    return result


def to_bytes(values: Floats) -> Pixels:
    """Clamp to 0..1 and round to 8 bit."""
    rounded: Floats = np.rint(np.clip(values, 0, 1) * 255)
    return rounded.astype(np.uint8)


def _grid(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if size % 2 == 0:
        raise ValueError(f"kernel size must be odd, got {size}")
    axis = np.arange(size, dtype=np.float64) - size // 2
    return axis[:, None] * np.ones(size), axis[None, :] * np.ones((size, 1))


def _normalized(kernel: NDArray[np.float64]) -> Floats:
    normalized: Floats = (kernel / kernel.sum()).astype(np.float32)
    return normalized


def _triangle(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - distance)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate Keys' cubic with a = -0.75 at distances 0..2."""
    a, d = -0.75, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
