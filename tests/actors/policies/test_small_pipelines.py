"""The small pipelines paint, and their nets look at the prompt, the photo and the time."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.compat.torchvision import ensure_torchvision
from tests.reference.pipelines import PIPELINES, SmallPipeline, build_pipeline

pytestmark = pytest.mark.long

PROMPTS = ("a cat on a red chair", "heavy noise")


def load(directory: Path) -> Any:
    from diffusers import DiffusionPipeline

    own = {"custom_pipeline": str(directory), "trust_remote_code": True}
    pipeline = DiffusionPipeline.from_pretrained(
        directory, local_files_only=True, **(own if (directory / "pipeline.py").exists() else {})
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def photo(size_px: int, brightness: int) -> Any:
    """Noise of levels from ``brightness`` to 127 above it."""
    from PIL import Image

    noise = np.random.default_rng(brightness).integers(0, 128, (size_px, size_px, 3), dtype=np.uint8)
    return Image.fromarray(noise + np.uint8(brightness))


def paint(small: SmallPipeline, pipeline: Any, prompts: list[str], photos: list[Any]) -> Any:
    """Pictures ``[rows, 3, size, size]`` in 0..1, all from the same noise."""
    import torch

    call = {key: photos if value == "degraded" else value for key, value in small.call.items()}
    if "negative_prompt" in call:
        call["negative_prompt"] = [call["negative_prompt"]] * len(prompts)
    if "height" in inspect.signature(pipeline.__call__).parameters:
        call |= {"height": small.size_px, "width": small.size_px}
    generators = [torch.Generator().manual_seed(1) for _ in prompts]
    return pipeline(
        prompt=list(prompts), generator=generators, num_inference_steps=2, output_type="pt", **call
    ).images


@pytest.mark.parametrize("name", PIPELINES)
def test_small_pipeline_paints_what_it_is_told_and_shown(name: str, tmp_path: Path) -> None:
    ensure_torchvision()
    import torch

    small = PIPELINES[name]
    build_pipeline(name, tmp_path)
    pipeline = load(tmp_path)
    net = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    calls: list[tuple[list[Any], dict[str, Any]]] = []
    hook = net.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((list(args), kwargs)), with_kwargs=True
    )
    here, there = (photo(small.picture_px or 8, brightness) for brightness in (0, 128))

    by_text = paint(small, pipeline, list(PROMPTS), [here, here])
    hook.remove()
    assert by_text.shape == (2, 3, small.size_px, small.size_px)
    assert torch.isfinite(by_text).all()
    assert by_text.std() > 0.01
    assert _difference(*by_text) > 1e-3
    by_time = [_difference(_answer(net, *call, time=1.0), _answer(net, *call, time=0.5)) for call in calls]
    assert max(by_time) > 1e-3
    assert torch.equal(by_text, paint(small, pipeline, list(PROMPTS), [here, here]))
    if small.picture_px:
        assert _difference(*paint(small, pipeline, [PROMPTS[0]] * 2, [here, there])) > 1e-3


def _difference(one: Any, other: Any) -> float:
    return (one - other).abs().max().item()


def _answer(net: Any, args: list[Any], kwargs: dict[str, Any], time: float) -> Any:
    """The net's answer to the first row of a call, at so large a part of its time."""
    import torch

    if "timestep" in kwargs:
        kwargs = kwargs | {"timestep": kwargs["timestep"] * time}
    else:
        args = [args[0], args[1] * time, *args[2:]]
    with torch.no_grad():
        return net(*args, **kwargs)[0][0]
