"""The image rollout worker: batches, noise, weights and failures, with the real pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.policies.denoising.policy import DenoisingPolicy
from actors.policies.restoration.small import build_image_policy
from actors.rollout.image_worker import ImageRolloutWorker
from actors.weights.buckets import Bucket, pack
from configs.methods import Guard
from configs.schema import PolicyConfig
from rl.denoising.samplers import SAMPLERS
from rl.errors import ConfigError, RolloutError, WeightSyncError
from rl.types import ImageRequest, Manifest, Pixels, SamplerSpec, StepPlan
from tests.reference.painting import load
from tests.reference.policy_configs import policy_config
from tests.reference.rollout import rollout_spec

BLOCKS = ("rough_image", "final_image")
CONFIG = policy_config(kind="denoising", micro_batch_size=4)


def pixels(size: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


PICTURES = (pixels(8, 0), pixels(16, 1))


def request(seed: int, **changes: Any) -> ImageRequest:
    fields: dict[str, Any] = {
        "request_id": f"chain/{seed}",
        "block": "final_image",
        "size_px": 32,
        "height_px": changes.get("size_px", 32),
        "num_steps": 2,
        "sampler": SamplerSpec(),
        "pictures": {"degraded": 0, "previous": 1},
        "words": {"text": "a cat", "question": ""},
        "seed": seed,
    }
    return ImageRequest(**(fields | changes))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    build_image_policy(path, texts=["a cat"], sizes=(8, 16, 32), seed=0, channels=(16, 16), patch=2)
    pipeline = load(path)
    torch.manual_seed(1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.2)
    pipeline.save_pretrained(path)
    return path


def make_worker(
    directory: Path, *, deterministic: bool = False, config: PolicyConfig = CONFIG
) -> ImageRolloutWorker:
    worker = ImageRolloutWorker(rollout_spec(directory, config, BLOCKS, seed=7, deterministic=deterministic))
    worker.setup()
    return worker


@pytest.fixture
def worker(directory: Path) -> Iterator[ImageRolloutWorker]:
    worker = make_worker(directory)
    yield worker
    worker.close()


def publish(directory: Path, version: int, factor: float) -> tuple[Manifest, list[np.ndarray[Any, Any]]]:
    policy = DenoisingPolicy.load(directory, CONFIG, block_names=BLOCKS)
    tensors = ((name, parameter.detach() * factor) for name, parameter in policy.published())
    *buckets, manifest = pack("image", version, tensors, 1 << 18)
    assert isinstance(manifest, Manifest)
    return manifest, [bucket.data for bucket in buckets if isinstance(bucket, Bucket)]


def test_answer_is_flat_and_in_order(worker: ImageRolloutWorker) -> None:
    requests = [request(0), request(1, size_px=16, pictures={"degraded": 0}, block="rough_image"), request(2)]
    replies, *rest = asyncio.run(worker.generate(requests, *PICTURES))
    assert [reply.request_id for reply in replies] == ["chain/0", "chain/1", "chain/2"]
    assert [picture.shape for picture in rest[::3]] == [(32, 32, 3), (16, 16, 3), (32, 32, 3)]
    assert all(reply.steps == (0,) for reply in replies)
    segment = rest[4]
    assert (segment.block, segment.size_px, segment.pictures) == ("rough_image", 16, ("degraded",))
    assert rest[1].latents.shape == (3, 3, 32, 32)
    assert rest[1].behaviour_logprobs[-1] == 0


def test_requests_of_several_calls_share_batches(worker: ImageRolloutWorker) -> None:
    async def calls() -> list[Any]:
        return await asyncio.gather(*[worker.generate([request(seed)], *PICTURES) for seed in range(9)])

    together = asyncio.run(calls())
    stats = worker.stats()
    assert stats["num_pictures"] == 9
    assert 3 <= stats["num_batches"] < 9
    assert stats["num_waiting"] == 0
    for seed, (_, picture, segment, _) in enumerate(together):
        _, alone_picture, alone, _ = asyncio.run(worker.generate([request(seed)], *PICTURES))
        assert np.abs(segment.latents - alone.latents).max() < 1e-4
        assert np.abs(picture.astype(int) - alone_picture.astype(int)).max() <= 1


def test_pictures_with_other_random_steps_or_samplers_are_other_batches(worker: ImageRolloutWorker) -> None:
    several = [
        request(0, num_steps=3),
        request(1, num_steps=3, steps=StepPlan(random=(0, 1), trained=(1,))),
        request(2, num_steps=3, steps=StepPlan(random=(1,), trained=(1,))),
        request(3, num_steps=3, sampler=SamplerSpec(kind="dance")),
    ]
    replies, *rest = asyncio.run(worker.generate(several, *PICTURES))
    assert [reply.steps for reply in replies] == [(0, 1), (1,), (1,), (0, 1)]
    assert [segment.action_mask.tolist() for segment in rest[1::3]] == [
        [True, True, False],
        [False, True, False],
        [False, True, False],
        [True, True, False],
    ]
    assert [segment.sampler for segment in rest[1::3]] == [one.sampler for one in several]
    # The first two differ in what is trained, not in how they are painted.
    assert worker.stats()["num_batches"] == 3


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_canary_paints_by_the_configured_sampler(directory: Path, kind: str, scale: float) -> None:
    config = policy_config(
        kind="denoising",
        sampler=kind,
        call={"guidance_scale": scale},
        noise_level=0.5,
        surrogate=Guard(),
    )
    worker = make_worker(directory, config=config)
    canary = asyncio.run(worker.canary())
    worker.close()
    assert canary.segment.sampler == SamplerSpec(kind=kind, noise_level=0.5)
    policy = DenoisingPolicy.load(directory, config, block_names=BLOCKS).eval()
    batch = policy.collate([canary])
    with torch.no_grad():
        scores = policy(batch.inputs)
    assert batch.action_mask.tolist() == [[True, True, False]]
    assert (scores.logprobs - batch.behaviour_logprobs).abs().max() < 1e-5
    gap = batch.behaviour_step_mean[batch.action_mask] - scores.step_mean[batch.action_mask]
    assert gap.abs().max() < 1e-5


def test_noise_follows_the_seed(worker: ImageRolloutWorker) -> None:
    _, a, _, _, b, _, _, c, *_ = asyncio.run(worker.generate([request(0), request(1), request(0)], *PICTURES))
    assert np.array_equal(a, c)
    assert not np.array_equal(a, b)


def test_deterministic_calls_are_their_own_batches(directory: Path) -> None:
    worker = make_worker(directory, deterministic=True)

    async def calls() -> list[Any]:
        return await asyncio.gather(
            worker.generate([request(0), request(1)], *PICTURES), worker.generate([request(2)], *PICTURES)
        )

    first, second = asyncio.run(calls()), asyncio.run(calls())
    assert worker.stats()["num_batches"] == 4
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one[2].latents, other[2].latents)
        assert np.array_equal(one[2].behaviour_logprobs, other[2].behaviour_logprobs)
    worker.close()
    torch.use_deterministic_algorithms(False)


def test_new_weights_are_proved_by_the_canary(
    worker: ImageRolloutWorker, directory: Path, tmp_path: Path
) -> None:
    manifest, buckets = publish(directory, 3, 1.1)

    async def run() -> Any:
        before = await worker.canary()
        await worker.load_weights(manifest, *buckets)
        reply, *_ = await worker.generate([request(0)], *PICTURES)
        return before, await worker.canary(), reply[0].version

    before, after, version = asyncio.run(run())
    assert version == worker.stats()["version"] == 3
    policy = DenoisingPolicy.load(directory, CONFIG, block_names=BLOCKS)
    policy.export(tmp_path, {name: parameter.detach() * 1.1 for name, parameter in policy.published()})
    updated = DenoisingPolicy.load(tmp_path, CONFIG, block_names=BLOCKS).eval()
    batch = updated.collate([after])
    with torch.no_grad():
        gap = (updated(batch.inputs).logprobs - batch.behaviour_logprobs).abs().max()
        stale = updated.collate([before])
        stale_gap = (updated(stale.inputs).logprobs - stale.behaviour_logprobs).abs().max()
    assert batch.action_mask.any()
    assert gap < 1e-5
    assert stale_gap > 1e-3


def test_wrong_weights_change_nothing(worker: ImageRolloutWorker) -> None:
    *buckets, manifest = pack("image", 5, [("unet.other", torch.zeros(2))], 1 << 10)
    assert isinstance(manifest, Manifest)
    with pytest.raises(WeightSyncError, match="same checkpoint"):
        asyncio.run(worker.load_weights(manifest, *[b.data for b in buckets if isinstance(b, Bucket)]))
    assert worker.stats()["version"] == 0


def test_wrong_shapes_are_named(worker: ImageRolloutWorker, directory: Path) -> None:
    policy = DenoisingPolicy.load(directory, CONFIG, block_names=BLOCKS)
    tensors = [(name, torch.zeros(1)) for name, _ in policy.published()]
    *buckets, manifest = pack("image", 5, tensors, 1 << 20)
    assert isinstance(manifest, Manifest)
    with pytest.raises(WeightSyncError, match=r"unet\..* is \[1\]"):
        asyncio.run(worker.load_weights(manifest, *[b.data for b in buckets if isinstance(b, Bucket)]))


def test_a_failure_reaches_those_who_wait_and_nobody_else(worker: ImageRolloutWorker) -> None:
    with pytest.raises(RolloutError, match="chain/0"):
        asyncio.run(worker.generate([request(0, size_px=33)], *PICTURES))  # not a multiple of the patch
    replies, *_ = asyncio.run(worker.generate([request(1)], *PICTURES))
    assert replies[0].request_id == "chain/1"


def test_setup_names_a_directory_without_a_policy(tmp_path: Path) -> None:
    worker = ImageRolloutWorker(rollout_spec(tmp_path, CONFIG, BLOCKS))
    with pytest.raises(ConfigError, match=r"no model_index\.json in it"):
        worker.setup()
    worker.close()


def test_close_fails_what_waits(directory: Path) -> None:
    worker = make_worker(directory)

    async def run() -> list[Any]:
        calls = [asyncio.ensure_future(worker.generate([request(i)], *PICTURES)) for i in range(12)]
        await asyncio.sleep(0)
        await asyncio.to_thread(worker.close)
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(run())
    assert any(isinstance(result, RolloutError) for result in results)
    assert all(isinstance(result, RolloutError | tuple) for result in results)
