"""The small Qwen2.5-VL that is made in place: what its vision tower starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch.nn import functional as F

from actors.policies.token.qwen2_5_vl import (
    MEAN_SHARE,
    PATCH_PX,
    VISION_SIZE,
    build_text_policy,
    cosine_basis,
)
from rl.compat.torchvision import ensure_torchvision
from tests.reference.tiny_text import BLOCKS, TEXTS, build, photo

NUM = VISION_SIZE // 2


def test_basis_is_the_weighted_dct_of_luma_and_chroma() -> None:
    rng = np.random.default_rng(0)
    patch = rng.normal(size=(3, PATCH_PX, PATCH_PX))
    basis = cosine_basis(PATCH_PX, 3 * PATCH_PX**2).numpy()
    found = np.sort(np.abs(np.einsum("kdyx,dyx->k", basis, patch)))
    red, green, blue = patch
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    wanted = []
    for channel in (luma, 2 * (blue - luma) / 1.772, 2 * (red - luma) / 1.402):
        gain = 1 + np.hypot(*np.indices((PATCH_PX, PATCH_PX)))
        gain[0, 0] = MEAN_SHARE
        wanted += np.abs(gain * dctn(channel, norm="ortho")).flatten().tolist()
    np.testing.assert_allclose(found, np.sort(wanted), atol=0.05)


def test_basis_keeps_the_lowest_frequencies() -> None:
    few = cosine_basis(PATCH_PX, 3)
    ones = torch.ones(PATCH_PX, PATCH_PX)
    for wave in few:
        assert torch.allclose(wave, wave[:, :1, :1] * ones, atol=1e-6)


def test_first_block_adds_magnitudes(tmp_path: Path) -> None:
    build(tmp_path)
    ensure_torchvision()
    from transformers import Qwen2_5_VLForConditionalGeneration

    visual = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path).model.visual
    patches = torch.rand(64, 3, 1, PATCH_PX, PATCH_PX).expand(-1, -1, 2, -1, -1) - 0.5
    with torch.no_grad():
        frequencies = visual.patch_embed(patches.reshape(64, -1))
        constant = F.one_hot(torch.tensor(VISION_SIZE - 1), VISION_SIZE) * VISION_SIZE**0.5
        added = visual.blocks[0].mlp(visual.blocks[0].norm2(frequencies + constant))
    magnitudes = frequencies[:, :NUM].abs()
    assert not frequencies[:, NUM:].any()
    # Not the mean colours, which are tiny by design and drown in what is left random.
    for index in range(3, NUM, 16):
        both = torch.stack([magnitudes[:, index], added[:, NUM + index]])
        assert torch.corrcoef(both)[0, 1] > 0.9


@pytest.mark.parametrize(("degraded_px", "num_tokens"), [(8, 1), (16, 4), (20, 9)])
def test_every_picture_costs_what_the_degraded_photo_costs(
    tmp_path: Path, degraded_px: int, num_tokens: int
) -> None:
    build_text_policy(tmp_path, texts=TEXTS, block_names=BLOCKS, degraded_px=degraded_px, seed=0)
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pictures = [photo(0, degraded_px), photo(1, 2 * degraded_px)]
    grids = processor(pictures, return_tensors="pt")["image_grid_thw"]
    assert grids.prod(1).tolist() == [num_tokens, num_tokens]


def test_weights_follow_from_the_seed(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build(tmp_path / name, seed=seed)
    assert torch.equal(state, torch.get_rng_state())
    one, two, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert one == two
    assert one != other
