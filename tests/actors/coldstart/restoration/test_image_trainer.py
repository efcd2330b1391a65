"""The picture policy's cold start: data, loss, and the first checkpoint."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.coldstart.restoration.image_data import batches, make_dataset, texts_so_far
from actors.coldstart.restoration.image_trainer import SupervisedImageModel, train_image
from actors.coldstart.task import ColdstartTask, training_prompts
from actors.policies.restoration.image_model import RESIDUAL_SCALE, resize, to_latents
from actors.policies.restoration.small import build_image_policy
from configs.call import Shown
from configs.load import load_config
from rewards.experts.real_esrgan import restored
from rl.errors import ConfigError, DataError
from rl.restoration.names import restoration_prompt
from rl.types import Pixels, Prompt
from tests.reference.painting import load
from tests.reference.restorer import install_restorer

TEXTS = ["light blur, keep", "a cat on a mat"]
SIZES = (8, 16, 32)


def pixels(size: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def make_prompt(seed: int) -> Prompt:
    captions = ("a cat", "a cat on", "a cat on a mat")
    return restoration_prompt(str(seed), pixels(8, seed), pixels(32, seed), captions=captions)


def test_the_model_learns_and_repeats(tmp_path: Path) -> None:
    build_image_policy(tmp_path, texts=TEXTS, sizes=SIZES, seed=0, channels=(16, 16), patch=2)

    def losses() -> list[float]:
        model = SupervisedImageModel(tmp_path)
        data = make_dataset([make_prompt(0)], sizes=SIZES, tokenizer=model.tokenizer)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        out = []
        for batch in islice(batches(data, batch_size=4, seed=0), 40):
            optimizer.zero_grad()
            loss = model(batch)
            loss.backward()
            optimizer.step()
            out.append(loss.item())
        return out

    first = losses()
    assert np.mean(first[-10:]) < 0.8 * np.mean(first[:10])
    assert first == losses()


def make_batch(directory: Path) -> tuple[SupervisedImageModel, dict[str, Tensor]]:
    """Make an untrained model, which predicts the degraded photo, and its first batch of the largest size."""
    build_image_policy(directory, texts=TEXTS, sizes=SIZES, seed=0, channels=(16, 16), patch=2)
    model = SupervisedImageModel(directory)
    data = make_dataset([make_prompt(i) for i in range(4)], sizes=SIZES, tokenizer=model.tokenizer)
    found = (batch for batch in batches(data, batch_size=4, seed=0) if batch["truth"].shape[2] == SIZES[-1])
    return model, next(found)


def test_untrained_loss_is_bicubics(tmp_path: Path) -> None:
    model, batch = make_batch(tmp_path)
    bicubic = (batch["truth"] - batch["degraded"]).square().mean() / RESIDUAL_SCALE**2
    assert torch.isclose(model(batch), bicubic)


def test_later_step_starts_from_guess_or_truth(tmp_path: Path) -> None:
    model, batch = make_batch(tmp_path)
    batch |= {"from_guess": torch.tensor([True, False] * 2), "has_previous": torch.zeros(4, dtype=torch.bool)}
    seen: list[Tensor] = []
    model.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(batch)
    first, later = (torch.nn.functional.pixel_shuffle(planes[:, :12], 2) * RESIDUAL_SCALE for planes in seen)
    noise = 0.15 * batch["noise"]
    sigma = batch["sigma"][:, None, None, None]
    known = torch.where(batch["from_guess"][:, None, None, None], 0.0, batch["truth"] - batch["degraded"])
    assert torch.allclose(first, noise, atol=1e-5)
    assert torch.allclose(later, (1 - sigma) * known + sigma * noise, atol=1e-5)


def test_export_writes_what_was_learnt(tmp_path: Path) -> None:
    model, _ = make_batch(tmp_path / "first")
    torch.nn.init.ones_(model.unet.get_parameter("conv_out.bias"))
    model.export(tmp_path / "taught")
    pipeline = load(tmp_path / "taught")
    assert torch.equal(pipeline.unet.conv_out.bias, torch.ones(12))


def test_ranks_share_sizes_and_split_rows(tmp_path: Path) -> None:
    build_image_policy(tmp_path, texts=TEXTS, sizes=SIZES, seed=0, channels=(16, 16), patch=2)
    tokenizer = SupervisedImageModel(tmp_path).tokenizer
    data = make_dataset([make_prompt(i) for i in range(9)], sizes=SIZES, tokenizer=tokenizer)
    ranks = [list(islice(batches(data, batch_size=6, seed=0, rank=r, world=2), 6)) for r in range(2)]
    for one, other in zip(*ranks, strict=True):
        assert one["truth"].shape == other["truth"].shape
        assert len(one["truth"]) == 3
        assert not torch.equal(one["noise"], other["noise"])


def test_texts_grow_with_the_chain() -> None:
    assert texts_so_far(make_prompt(0), 2) == ["a cat", "a cat a cat on"]


def test_dataset_needs_truth(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lonely"):
        make_dataset([restoration_prompt("lonely", pixels(8, 0))], sizes=(8,), tokenizer=None)


def test_sizes_must_fit_the_net(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size_px=10 is not a multiple of 8"):
        build_image_policy(tmp_path, texts=TEXTS, sizes=(16, 10), seed=0)


RESTORED = Shown(("degraded",), size=(32, 32), by="real_esrgan")


def test_a_batch_starts_at_the_restored_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_restorer(tmp_path / "site", monkeypatch)
    build_image_policy(tmp_path, texts=TEXTS, sizes=SIZES, seed=0, channels=(16, 16), patch=2)
    model, prompt = SupervisedImageModel(tmp_path), make_prompt(0)
    data = make_dataset([prompt], sizes=SIZES, tokenizer=model.tokenizer, shown=RESTORED)
    photo = restored(prompt.pictures["degraded"], (32, 32))
    seen: list[Tensor] = []
    model.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for batch in islice(batches(data, batch_size=2, seed=0), 3):
        size = batch["truth"].shape[2]
        flat = resize(to_latents([photo]), (size, size))[0]
        turned = [torch.rot90(f, k, (1, 2)) for f in (flat, flat.flip(2)) for k in range(4)]
        assert any(torch.equal(batch["degraded"][0], picture) for picture in turned)
        # As the pipeline sees it: a photograph of 32 px.
        assert torch.allclose(batch["log_scale"][:, 1], torch.tensor(np.log2(size / 32) / 2).float())
        # The net's own view: the second picture of its patches is where the flow starts.
        seen.clear()
        model(batch)
        start = torch.nn.functional.pixel_shuffle(seen[-1][:, 12:24], 2)
        assert torch.equal(start, batch["degraded"])


def first_loss(folder: Path, call: str) -> float:
    """The loss of a cold start's first step, whose net still paints what it starts at."""
    settings = [f"policies.image.call={call}", "coldstart.image_steps=1", "coldstart.num_examples=2"]
    losses: list[float] = []
    task = ColdstartTask(
        config=load_config("tiny", settings),
        policy="image",
        directory=folder / "image",
        made=folder,
        work=folder / "work",
        rank=0,
        world_size=1,
        report=lambda _, metrics: losses.append(metrics["loss"]),
        note=lambda _: None,
    )
    train_image(task)
    return losses[0]


def test_the_cold_start_teaches_what_the_call_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_restorer(tmp_path / "site", monkeypatch)
    config = load_config("tiny", ["coldstart.num_examples=2"])

    def wanted(shown: Shown | None) -> float:
        model = SupervisedImageModel(tmp_path / "bicubic" / "work" / "first-0")
        sizes = [block.size_px for block in config.chain.values() if block.kind == "image"]
        prompts = training_prompts(config, 0, 2)
        data = make_dataset(prompts, sizes=sizes, tokenizer=model.tokenizer, shown=shown)
        batch = next(batches(data, batch_size=config.coldstart.image_batch_size, seed=config.seed))
        return float((batch["truth"] - batch["degraded"]).square().mean() / RESIDUAL_SCALE**2)

    plain = first_loss(tmp_path / "bicubic", "{}")
    assert plain == pytest.approx(wanted(None), rel=1e-4)
    sized = first_loss(tmp_path / "sized", "{degraded: {from: degraded, px: 64}}")
    assert sized == plain  # it is taught bicubic, as before
    taught = first_loss(tmp_path / "restored", "{degraded: {from: degraded, px: 64, by: real_esrgan}}")
    shown = Shown(("degraded",), size=(64, 64), by="real_esrgan")
    assert taught == pytest.approx(wanted(shown), rel=1e-4)
    assert abs(taught - plain) > 1e-3
