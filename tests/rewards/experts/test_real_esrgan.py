"""Real-ESRGAN's nets as ncnn stores them: read, run as plain torch runs them, refused where files do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rewards.experts.real_esrgan import (
    HALF,
    SCALES,
    enlarge,
    factor_between,
    find_weights,
    load_net,
    read_net,
    restored,
    size_before,
)
from rl.errors import ConfigError
from tests.reference.restorer import install_restorer

PARAM = """7767517
8 9
Input input 0 1 data
Split split 1 2 data one other
Convolution first 1 1 one a 0=8 1=3 4=1 5=1 6=216
PReLU bend 1 1 a b 0=8
Convolution second 1 1 b c 0=12 1=3 4=1 5=1 6=864
PixelShuffle shuffle 1 1 c d 0=2
Interp larger 1 1 other e 0=1 1=2.0 2=2.0
BinaryOp add 2 1 d e output
"""


@pytest.fixture
def net(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float16),
        "first_bias": rng.normal(0, 0.1, 8).astype(np.float32),
        "bend": rng.normal(0, 0.3, 8).astype(np.float32),
        "second": rng.normal(0, 0.1, (12, 8, 3, 3)).astype(np.float16),
        "second_bias": rng.normal(0, 0.1, 12).astype(np.float32),
    }
    (tmp_path / "net.param").write_text(PARAM)
    content = b"".join(
        (HALF if array.dtype == np.float16 else b"") + array.tobytes() for array in weights.values()
    )
    (tmp_path / "net.bin").write_bytes(content)
    return tmp_path / "net.param", weights


def test_a_net_computes_what_plain_torch_does(net: tuple[Path, dict[str, np.ndarray]]) -> None:
    param, weights = net
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()}
    picture = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    hidden = F.prelu(F.conv2d(x, tensors["first"], tensors["first_bias"], padding=1), tensors["bend"])
    residual = F.pixel_shuffle(F.conv2d(hidden, tensors["second"], tensors["second_bias"], padding=1), 2)
    want = (residual + F.interpolate(x, scale_factor=2, mode="nearest")).clamp(0, 1) * 255
    made = enlarge(read_net(param), picture)
    assert (made.shape, made.dtype) == ((12, 18, 3), np.uint8)
    assert np.abs(made - want[0].permute(1, 2, 0).numpy()).max() <= 0.501


def test_files_that_do_not_belong_together_are_refused(net: tuple[Path, dict[str, np.ndarray]]) -> None:
    param, _ = net
    binary = param.with_suffix(".bin")
    content = binary.read_bytes()
    binary.write_bytes(content + b"1234")
    with pytest.raises(ConfigError, match="and the layers want"):
        read_net(param)
    binary.write_bytes(b"0000" + content[4:])
    with pytest.raises(ConfigError, match="is not stored in float16"):
        read_net(param)
    binary.write_bytes(content)
    param.write_text(PARAM.replace("PReLU", "Sigmoid"))
    with pytest.raises(ConfigError, match="no layer Sigmoid is known"):
        read_net(param)


@pytest.mark.parametrize("scale", SCALES)
def test_the_released_weights_enlarge_a_plain_picture_to_a_plain_one(scale: int) -> None:
    weights = find_weights(scale)
    if weights is None:
        pytest.skip("the extra 'restorer' is not installed")
    plain = np.full((12, 16, 3), (200, 120, 40), dtype=np.uint8)
    made = enlarge(read_net(weights), plain)
    assert made.shape == (12 * scale, 16 * scale, 3)
    middle = made[scale * 4 : -scale * 4, scale * 4 : -scale * 4].astype(int)
    assert np.abs(middle - plain[0, 0]).max() <= 6


def test_no_weights_for_another_scale() -> None:
    assert find_weights(8) is None


def test_a_picture_is_restored_to_a_size_the_same_for_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_restorer(tmp_path, monkeypatch)
    picture = np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for scale in SCALES:
        made = restored(picture, (6 * scale, 9 * scale))
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        assert np.array_equal(enlarge(load_net(scale), picture), made)
        torch.set_num_threads(before)
        assert made.std() > 10
        assert restored(picture.copy(), (6 * scale, 9 * scale)) is made


@pytest.mark.parametrize("larger", [(6, 9), (12, 27), (30, 45), (13, 18), (3, 4)])
def test_other_factors_are_refused(larger: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"enlarges 2, 3, 4 times, and not from 6 x 9 to "):
        factor_between((6, 9), larger)


@pytest.mark.parametrize(
    ("larger", "before"), [((64, 64), (32, 32)), ((9, 15), (3, 5)), ((8, 9), None), ((7, 7), None)]
)
def test_a_size_from_which_there_is_a_factor(larger: tuple[int, int], before: tuple[int, int] | None) -> None:
    assert size_before(larger) == before
