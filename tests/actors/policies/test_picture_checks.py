"""What a picture policy's checkpoint cannot do is refused before anything starts, in one line with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.policies.denoising.checkpoint import read_pipeline
from actors.policies.denoising.checks import check_settings
from configs.load import load_config
from rl.errors import ConfigError
from tests.reference.pipelines import build_pipeline

DDIM = "policies.image.rollout.sampler=ddim"


def call(text: str) -> str:
    return f"policies.image.call={{{text}}}"


UPSCALED = call("image: {from: degraded, share: 0.25}, noise_level: 20")


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("upscaler")
    build_pipeline("stable_diffusion_upscale", directory)
    return directory


def check(directory: Path, *settings: str) -> None:
    check_settings("image", load_config("tiny", list(settings)), directory, ("degraded",))


def test_what_fits_is_let_through(upscaler: Path) -> None:
    check(upscaler, DDIM, UPSCALED)
    check(upscaler, DDIM, call("image: {from: [previous, degraded], share: 0.25}, prompt: question"))
    files = read_pipeline(upscaler)
    assert (files.net, files.process.prediction) == ("unet", "v_prediction")
    assert {"image", "noise_level", "latents"} <= set(files.parameters)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((UPSCALED,), r"rollout\.sampler: .* predicts v_prediction, and is no flow; use ddim"),
        (
            (DDIM, "policies.image.loss.surrogate=guard", UPSCALED),
            r"loss\.surrogate: guard divides by the steps of a flow",
        ),
        ((DDIM, call("imgae: degraded")), r"call\.imgae: .* takes no such argument; did you mean image\?"),
        (
            (DDIM, call("image: degarded")),
            r"call\.image: block rough_image sees no picture named degarded; it sees degr",
        ),
        ((DDIM, call("image: previous")), r"block rough_image sees no picture named previous"),
        (
            (DDIM, call("image: {from: degraded, share: 0.5}")),
            r"from 8 x 8 px it paints 8 x 8 or 32 x 32, and chain\.rough_image has 16 x 16",
        ),
        (
            (DDIM, call("image: {from: degraded, px: 8, share: 0.5}")),
            r"want \{from: picture\}, with px: 64 or share",
        ),
        ((DDIM, call("image: {from: degraded, px: big}")), r"call\.image\.px: want an edge in pixels"),
        ((DDIM, call("num_inference_steps: 4")), r"cannot be set, it is chain\.<block>\.num_steps"),
    ],
)
def test_what_does_not_fit_costs_one_line(upscaler: Path, settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check(upscaler, *settings)
    assert str(caught.value).startswith("policies.image.")
    assert "\n" not in str(caught.value)


def test_code_of_its_own_runs_only_where_that_is_said(tmp_path: Path) -> None:
    build_pipeline("own_pipeline", tmp_path)
    with pytest.raises(ConfigError, match=r"trust_code: .* brings code of its own \(pipeline\.py\)"):
        check(tmp_path)
    check(tmp_path, "policies.image.trust_code=true")
