"""Adapters of the two real model families: published alone, merged by the workers, proved by the canary, exported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.image_rollout import ImageRolloutWorker
from actors.image_teacher import build_image_policy
from actors.learner import LearnerRank, LearnerSpec
from actors.lora import adapters_only
from actors.policies.base import TrainablePolicy
from actors.policies.denoising import DenoisingPolicy
from actors.policies.image_sampler import load_pipeline
from actors.policies.token import TokenPolicy
from actors.text_rollout import TextRolloutWorker
from configs.methods import Adapter
from configs.schema import PolicyConfig
from rl.types import Example, Manifest
from tests.reference.tiny_text import BLOCKS, build

pytestmark = pytest.mark.engine

LORA = Adapter(rank=4, alpha=8.0)
CONFIGS = {
    "text": PolicyConfig(kind="token", temperature=0.9, lora=LORA),
    "image": PolicyConfig(kind="denoising", micro_batch_size=4, lora=LORA),
}
TARGETS = {
    "text": "actors.policies.token:TokenPolicy",
    "image": "actors.policies.denoising:DenoisingPolicy",
}
CLASSES: dict[str, type[TrainablePolicy]] = {"text": TokenPolicy, "image": DenoisingPolicy}


class Store:
    """Nothing is trained from stored chains here."""

    def get(self, handles: Any) -> list[Example]:
        return []


@pytest.fixture(scope="module", params=["image", "text"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def directory(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(kind)
    if kind == "text":
        build(path)
        return path
    build_image_policy(path, texts=["a cat"], sizes=(8, 16, 32), seed=0, channels=(32, 32), patch=2)
    pipeline = load_pipeline(path, torch.float32, torch.device("cpu"))
    torch.manual_seed(1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.2)
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def learner(kind: str, directory: Path) -> Iterator[LearnerRank]:
    rank = LearnerRank(
        LearnerSpec(
            policy_name=kind,
            policy_target=TARGETS[kind],
            config=CONFIGS[kind],
            directory=directory,
            block_names=BLOCKS,
            bucket_bytes=1 << 20,
        )
    )
    rank.setup("127.0.0.1", 0, Store())
    yield rank
    rank.close()


@pytest.fixture(scope="module")
def worker(kind: str, directory: Path) -> Iterator[Any]:
    worker_class: Any = TextRolloutWorker if kind == "text" else ImageRolloutWorker
    made = worker_class(
        directory=directory, config=CONFIGS[kind], block_names=BLOCKS, seed=3, deterministic=False
    )
    made.setup()
    yield made
    made.close()


def gap(learner: LearnerRank, example: Example) -> float:
    mask = example.segment.action_mask
    assert mask.any()
    (scores,) = learner.score([example])
    return float(np.abs(scores[mask] - example.segment.behaviour_logprobs[mask]).max())


def publish(learner: LearnerRank, worker: Any) -> Manifest:
    *buckets, manifest = learner.publish()
    assert isinstance(manifest, Manifest)
    asyncio.run(worker.load_weights(manifest, *buckets))
    return manifest


def change(learner: LearnerRank, seed: int) -> None:
    """Stand for an update that moves the policy far."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapters_only(learner._policy.trained_net.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    learner.version += 1


def test_only_adapters_travel_and_the_canary_proves_them(
    kind: str, learner: LearnerRank, worker: Any
) -> None:
    start = asyncio.run(worker.canary())
    assert gap(learner, start) < 1e-4
    whole = sum(p.numel() * p.element_size() for n, p in learner._policy.published() if "lora_" not in n)
    for version in (1, 2, 3):
        change(learner, seed=version)
        assert gap(learner, start) > 1e-3
        manifest = publish(learner, worker)
        assert all("lora_" in spec.name for spec in manifest.tensors)
        assert sum(spec.num_bytes for spec in manifest.tensors) < whole / 4
        assert worker.stats()["version"] == version
        assert gap(learner, asyncio.run(worker.canary())) < 2e-5


def test_the_merged_export_and_the_adapter_give_the_same_logprobs(
    kind: str, directory: Path, learner: LearnerRank, worker: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    change(learner, seed=9)
    publish(learner, worker)
    example = asyncio.run(worker.canary())
    learner.export(tmp_path / "model")
    plain = PolicyConfig(kind=CONFIGS[kind].kind)
    merged = CLASSES[kind].load(tmp_path / "model", plain, block_names=BLOCKS).eval()
    adapted = CLASSES[kind].load(directory, plain, block_names=BLOCKS).eval()
    PeftModel.from_pretrained(adapted.trained_net, tmp_path / "adapter")
    batch = merged.collate([example])
    with torch.no_grad():
        scores = [policy(batch.inputs).logprobs[batch.action_mask] for policy in (merged, adapted)]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(scores[0], batch.behaviour_logprobs[batch.action_mask], rtol=0, atol=2e-5)
