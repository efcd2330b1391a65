"""The denoising policy scores what the sampler did, whatever else is in the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.image_teacher import build_image_policy
from actors.policies.denoising import DenoisingPolicy
from actors.policies.image_model import resize, to_latents, to_pictures
from actors.policies.image_sampler import Painted, PaintJob, load_pipeline, paint
from configs.schema import PolicyConfig
from rl.types import Example, ImageRequest, Pixels

BLOCKS = ("degradation", "rough_image", "final_image")
TEXTS = ["light blur, keep", "a cat on a mat"]


def pixels(size: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def job(seed: int, *, size_px: int = 32, noise_level: float = 0.7, with_previous: bool = True) -> PaintJob:
    request = ImageRequest(
        request_id=str(seed),
        block="final_image",
        size_px=size_px,
        num_steps=3,
        noise_level=noise_level,
        degraded=0,
        previous=1 if with_previous else -1,
        text="a cat " * seed,
        seed=seed,
    )
    return PaintJob(
        request=request, degraded=pixels(8, seed), previous=pixels(16, seed) if with_previous else None
    )


def example(job: PaintJob, painted: Painted) -> Example:
    pictures = (job.degraded,) if job.previous is None else (job.degraded, job.previous)
    return Example(segment=painted.segment, pictures=pictures)


def stirred(directory: Path) -> Path:
    """Write a checkpoint whose net is no longer zero at the end."""
    build_image_policy(directory, texts=TEXTS, sizes=(8, 16, 32), seed=0, channels=(16, 16), patch=2)
    pipeline = load_pipeline(directory, torch.float32, torch.device("cpu"))
    torch.manual_seed(1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.2)
    pipeline.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stirred(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def policy(directory: Path) -> DenoisingPolicy:
    return DenoisingPolicy.load(directory, PolicyConfig(kind="denoising"), block_names=BLOCKS).eval()


@pytest.fixture(scope="module")
def examples(directory: Path) -> list[Example]:
    jobs = [job(seed, with_previous=seed % 2 == 0) for seed in range(5)]
    pipeline = load_pipeline(directory, torch.float32, torch.device("cpu"))
    return [example(j, p) for j, p in zip(jobs, paint(pipeline, jobs), strict=True)]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, 1], [3]])
def test_logprobs_at_equal_weights_match(
    policy: DenoisingPolicy, examples: list[Example], rows: list[int]
) -> None:
    batch = policy.collate([examples[row] for row in rows])
    scores = policy(batch.inputs).logprobs
    assert scores.dtype == torch.float32
    assert batch.action_mask.tolist() == [[True, True, False]] * len(rows)
    assert batch.block_of.tolist() == [[2, 2, -1]] * len(rows)
    assert torch.allclose(scores, batch.behaviour_logprobs, atol=1e-5, rtol=0)
    assert batch.behaviour_logprobs[:, :2].abs().min() > 0.1


def test_logprobs_see_every_condition(policy: DenoisingPolicy, examples: list[Example]) -> None:
    seen = examples[2]
    before = policy(policy.collate([seen]).inputs).logprobs
    others = [
        replace(seen, pictures=(seen.pictures[1][:8, :8], seen.pictures[1])),
        replace(seen, pictures=(seen.pictures[0], 255 - seen.pictures[1])),
        replace(seen, pictures=seen.pictures[:1]),
        replace(seen, segment=replace(seen.segment, text_ids=seen.segment.text_ids[1:])),
    ]
    for other in others:
        assert (policy(policy.collate([other]).inputs).logprobs - before).abs().max() > 1e-6


def test_gradient_reaches_the_net_only(policy: DenoisingPolicy, examples: list[Example]) -> None:
    policy.zero_grad()
    policy(policy.collate(examples[:2]).inputs).logprobs.sum().backward()
    assert all(p.grad is not None for name, p in policy.published() if "attentions" not in name)
    assert all(p.grad is None for p in policy.text_encoder.parameters())
    names = [name for name, _ in policy.published()]
    assert all(name.startswith("unet.") for name in names)
    assert len(names) == len(list(policy.unet.parameters()))


def test_deterministic_pictures_have_no_actions_but_a_gradient_path(
    directory: Path, policy: DenoisingPolicy
) -> None:
    one = job(1, noise_level=0.0)
    pipeline = load_pipeline(directory, torch.float32, torch.device("cpu"))
    batch = policy.collate([example(one, paint(pipeline, [one])[0])])
    scores = policy(batch.inputs).logprobs
    assert not batch.action_mask.any()
    assert scores.requires_grad
    assert torch.equal(scores, torch.zeros(1, 3))


def test_collate_refuses_other_shapes(
    policy: DenoisingPolicy, directory: Path, examples: list[Example]
) -> None:
    small = job(1, size_px=16)
    pipeline = load_pipeline(directory, torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="one shape"):
        policy.collate([examples[0], example(small, paint(pipeline, [small])[0])])


def test_export_writes_what_the_library_loads(policy: DenoisingPolicy, tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, T5EncoderModel

    weights = {name: parameter.detach() + 1 for name, parameter in policy.published()}
    policy.export(tmp_path / "out", weights)
    net = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    assert all(torch.equal(value, weights[f"unet.{name}"]) for name, value in net.named_parameters())
    FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    T5EncoderModel.from_pretrained(tmp_path / "out" / "text_encoder")
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")("a cat")["input_ids"][-1] == 1
    assert {"pipeline.py", "image_model.py"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_stock_scheduler_paints_the_same_picture_without_noise(directory: Path) -> None:
    one = job(3, noise_level=0.0)
    pipeline = load_pipeline(directory, torch.float32, torch.device("cpu"))
    ours = paint(pipeline, [one])[0].picture
    generator = torch.Generator().manual_seed(3)
    theirs = pipeline(one.degraded, one.previous, one.request.text, 32, 3, generator)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_untrained_is_bicubic(tmp_path: Path) -> None:
    build_image_policy(tmp_path, texts=TEXTS, sizes=(8, 16, 32), seed=0, channels=(16, 16), patch=2)
    one = job(1)
    picture = paint(load_pipeline(tmp_path, torch.float32, torch.device("cpu")), [one])[0].picture
    assert np.array_equal(picture, to_pictures(resize(to_latents([one.degraded]), (32, 32)))[0])


def test_pictures_survive_latents() -> None:
    picture = pixels(4, 0)
    assert np.array_equal(to_pictures(to_latents([picture]))[0], picture)


def test_plain_library_paints(directory: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from rl.torchvision_compat import ensure_torchvision; ensure_torchvision()\n"
        "import numpy as np; from diffusers import DiffusionPipeline\n"
        "path = sys.argv[1]\n"
        "pipe = DiffusionPipeline.from_pretrained(path, custom_pipeline=path, trust_remote_code=True)\n"
        "picture = pipe(np.zeros((8, 8, 3), np.uint8), size_px=32, num_inference_steps=2)\n"
        "assert picture.shape == (32, 32, 3) and 'actors' not in sys.modules\n"
    )
    env = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code, str(directory)], env=env, check=True, capture_output=True)
