"""The picture codec's cold start: what it sees, its loss, and that training betters k-means on new photographs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.coldstart.task import ColdstartTask, training_prompts
from actors.coldstart.unified.codec_trainer import (
    CodecLoss,
    batches,
    codec_pictures,
    picture_sizes,
    train_codec,
)
from actors.policies.restoration.image_model import to_latents, to_pictures
from actors.policies.unified.codec import PictureCodec, load_codec
from actors.policies.unified.small_codec import PatchCodec
from configs.load import load_config
from rl.data.images import resize
from rl.data.source import prompt_source
from rl.errors import ConfigError, DataError
from rl.restoration.names import degraded_of, restoration_prompt, truth_of

SIZES = [(16, 16), (32, 32), (64, 64)]


def task(work: Path, *, seed: int = 0) -> ColdstartTask:
    return ColdstartTask(
        config=load_config("demo", ["coldstart.num_examples=100", f"seed={seed}"]),
        policy="text",
        directory=work / "policy",
        made=work,
        work=work / "work",
        rank=0,
        world_size=1,
        report=lambda step, metrics: None,
        note=lambda _: None,
    )


def decibels(codec: PictureCodec, pictures: list[np.ndarray]) -> float:
    """Return the mean PSNR of the round trip."""
    back = codec.decode_batch(codec.encode_batch(pictures))
    errors = [np.mean((a.astype(float) - b) ** 2) for a, b in zip(pictures, back, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


@pytest.mark.engine
def test_training_betters_kmeans_on_new_photographs_and_is_resumed_and_written(tmp_path: Path):
    start = train_codec(task(tmp_path / "start"), tmp_path / "start", num_steps=0, num_codes=256)
    trained = train_codec(task(tmp_path), tmp_path, num_steps=24, num_codes=256)
    # It goes on from the last checkpoint, where nothing is left to do.
    resumed = train_codec(task(tmp_path), tmp_path / "resumed", num_steps=24, num_codes=256)
    held_out = [truth_of(prompt) for prompt in prompt_source(task(tmp_path).config).held_out(32)]
    for size in (16, 64):
        pictures = [resize(photo, size, size) for photo in held_out]
        assert decibels(trained, pictures) > decibels(start, pictures) + 0.2
    for other in (resumed, load_codec(tmp_path)):
        assert_equal_codecs(trained, other, held_out)


@pytest.mark.engine
def test_a_seed_makes_the_same_codec_again_and_another_seed_another(tmp_path: Path):
    first, again, other = (
        train_codec(task(tmp_path / name, seed=seed), tmp_path / name, num_steps=2, num_codes=64)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    photo = resize(truth_of(prompt_source(task(tmp_path).config).train(0)), 16, 16)
    assert_equal_codecs(first, again, [photo])
    assert (first.encode(photo) != other.encode(photo)).any()


def assert_equal_codecs(one: PictureCodec, other: PictureCodec, pictures: list[np.ndarray]) -> None:
    codes = one.encode_batch(pictures)
    assert all((a == b).all() for a, b in zip(codes, other.encode_batch(pictures), strict=True))
    made = one.decode_batch(codes)
    assert all((a == b).all() for a, b in zip(made, other.decode_batch(codes), strict=True))


def test_the_loss_decodes_the_very_codes_and_reaches_every_part():
    torch.manual_seed(0)
    codec = PatchCodec(stride=4, num_codes=32, width=8)
    pictures = to_latents([np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)])
    codec.start(torch.randn(200, 48), torch.Generator().manual_seed(0))
    for part in (codec.encoder[-1], codec.decoder[-1]):
        torch.nn.init.normal_(part.weight, std=0.02)
    seen = []
    codec.decoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    CodecLoss(codec)({"pictures": pictures}).backward()
    codec.to_pixels(codec.to_codes(pictures))
    assert torch.allclose(*seen, atol=1e-5)
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in codec.parameters()
    )


def test_it_sees_true_photographs_at_every_size_and_degraded_ones_at_the_last(tmp_path: Path):
    config = task(tmp_path).config
    assert picture_sizes(config.chain.values(), 4) == SIZES
    prompts = training_prompts(config, 0, 3)
    *true, degraded = codec_pictures(prompts, SIZES)
    assert [tuple(photos.shape) for photos in true] == [(3, 3, *size) for size in SIZES]
    assert (to_pictures(true[-1])[1] == truth_of(prompts[1])).all()
    assert (to_pictures(degraded)[2] == resize(degraded_of(prompts[2]), 64, 64)).all()


def test_batches_have_as_many_pixels_at_every_size_and_ranks_share_them():
    pictures = [torch.randn(5, 3, size, size) for size in (16, 32)]
    one = [batch["pictures"] for batch in islice(batches(pictures, seed=0), 8)]
    other = [batch["pictures"] for batch in islice(batches(pictures, seed=0, rank=1, world=2), 8)]
    assert {tuple(batch.shape) for batch in one} == {(256, 3, 16, 16), (64, 3, 32, 32)}
    assert [2 * len(batch) for batch in other] == [len(batch) for batch in one]
    assert not torch.equal(one[0][: len(other[0])], other[0])


def test_sizes_that_do_not_fit_and_photographs_without_truth_are_refused(tmp_path: Path):
    blocks = load_config("demo", ["chain.final_image.size_px=66"]).chain.values()
    with pytest.raises(ConfigError, match="size_px=66 is not a multiple of 4"):
        picture_sizes(blocks, 4)
    with pytest.raises(DataError, match="untrue: the picture codec learns from ground truth"):
        codec_pictures([restoration_prompt("untrue", np.zeros((16, 16, 3), dtype=np.uint8))], SIZES)
