"""Small random picture pipelines of diffusers' families, and one of a user's own, as checkpoint folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl.compat.torchvision import ensure_torchvision
from tests.reference import flow_pipelines as flow
from tests.reference import noise_pipelines as noise

OWN_CODE = Path(__file__).parent / "own_pipeline" / "pipeline.py"


@dataclass(frozen=True)
class SmallPipeline:
    """One pipeline and how it is called.

    Attributes:
        name: Its key in `PIPELINES`.
        build: Writes the checkpoint folder.
        call: Arguments beside prompt, size, latents, generator and steps; ``degraded`` stands for the photo.
        picture_px: Edge of the picture it is shown; 0 for none.
        size_px: Edge of the picture it paints.
    """

    name: str
    build: Callable[[Path], None]
    call: Mapping[str, Any] = field(default_factory=dict)
    picture_px: int = 0
    size_px: int = 32


def build_pipeline(name: str, directory: Path) -> None:
    """Write the checkpoint folder of one of `PIPELINES`."""
    PIPELINES[name].build(directory)


def _saved(make: Callable[[], Any]) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        ensure_torchvision()
        make().save_pretrained(directory)

    return build


def _save_own(directory: Path) -> None:
    _saved(flow.own_pipeline)(directory)
    shutil.copyfile(OWN_CODE, directory / OWN_CODE.name)


SHORT = {"max_sequence_length": 64}
NO_BINS = {"use_resolution_binning": False, "clean_caption": False}
PIPELINES: Mapping[str, SmallPipeline] = {
    small.name: small
    for small in (
        SmallPipeline("stable_diffusion_3", _saved(flow.stable_diffusion_3), {"guidance_scale": 4.5} | SHORT),
        SmallPipeline("flux", _saved(flow.flux), {"guidance_scale": 3.5} | SHORT),
        SmallPipeline(
            "flux_kontext",
            _saved(flow.flux_kontext),
            {"image": "degraded", "guidance_scale": 2.5, "max_area": 32 * 32, "_auto_resize": False} | SHORT,
            picture_px=32,
        ),
        SmallPipeline(
            "qwen_image", _saved(flow.qwen_image), {"negative_prompt": "blurry", "true_cfg_scale": 4.0}
        ),
        SmallPipeline(
            "sana",
            _saved(flow.sana),
            {"guidance_scale": 4.5, "complex_human_instruction": None} | NO_BINS | SHORT,
        ),
        SmallPipeline("z_image", _saved(flow.z_image), {"guidance_scale": 3.0} | SHORT),
        SmallPipeline("stable_diffusion", _saved(noise.stable_diffusion), {"guidance_scale": 7.5}),
        SmallPipeline("stable_diffusion_v", _saved(noise.stable_diffusion_v), {"guidance_scale": 7.5}),
        SmallPipeline("stable_diffusion_xl", _saved(noise.stable_diffusion_xl), {"guidance_scale": 5.0}),
        SmallPipeline(
            "stable_diffusion_upscale",
            _saved(noise.stable_diffusion_upscale),
            {"image": "degraded", "guidance_scale": 4.0, "noise_level": 20},
            picture_px=16,
            size_px=64,
        ),
        SmallPipeline(
            "instruct_pix2pix",
            _saved(noise.instruct_pix2pix),
            {"image": "degraded", "guidance_scale": 7.5, "image_guidance_scale": 1.5},
            picture_px=32,
        ),
        SmallPipeline("pixart_sigma", _saved(noise.pixart_sigma), {"guidance_scale": 4.5} | NO_BINS | SHORT),
        SmallPipeline("own_pipeline", _save_own),
    )
}
