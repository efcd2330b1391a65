"""Adapters of the two real model families: published alone, merged by the workers, proved by the canary, exported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.policies.base import TrainablePolicy
from actors.policies.denoising.family import DIFFUSERS
from actors.policies.denoising.policy import DenoisingPolicy
from actors.policies.restoration.small import build_image_policy
from actors.policies.token.family import LANGUAGE_MODEL
from actors.policies.token.policy import TokenPolicy
from actors.shared.lora import adapters_only, add_adapter, export_adapter, with_targets
from actors.weights.buckets import Bucket, pack
from configs.methods import Adapter
from rl.types import Example, Manifest
from tests.reference.painting import load
from tests.reference.policy_configs import policy_config
from tests.reference.rollout import make_worker
from tests.reference.tiny_text import BLOCKS, build

pytestmark = pytest.mark.engine

LORA = Adapter(rank=4, alpha=8.0)
FAMILIES = {"text": LANGUAGE_MODEL, "image": DIFFUSERS}
CONFIGS = {
    "text": policy_config(kind="token", temperature=0.9, lora=LORA),
    "image": policy_config(kind="denoising", micro_batch_size=4, lora=LORA),
}
CLASSES: dict[str, type[TrainablePolicy]] = {"text": TokenPolicy, "image": DenoisingPolicy}

FAR = {"text": 0.05, "image": 1.0}
"""Deviation of B after a stand-in for an update."""


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
    pipeline = load(path)
    torch.manual_seed(1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.2)
    pipeline.save_pretrained(path)
    return path


def adapter(kind: str) -> Adapter:
    return with_targets(LORA, FAMILIES[kind].lora_targets)


@pytest.fixture(scope="module")
def policy(kind: str, directory: Path) -> TrainablePolicy:
    """As a learner rank makes it."""
    found = CLASSES[kind].load(directory, CONFIGS[kind], block_names=BLOCKS)
    add_adapter(found.trained_net, adapter(kind), key="", seed=0)
    return found.eval()


@pytest.fixture(scope="module")
def worker(kind: str, directory: Path) -> Iterator[Any]:
    made = make_worker(directory, CONFIGS[kind], BLOCKS)
    yield made
    made.close()


def gap(policy: TrainablePolicy, example: Example) -> float:
    batch = policy.collate([example])
    assert batch.action_mask.any()
    with torch.no_grad():
        scores = policy(batch.inputs).logprobs
    return float((scores - batch.behaviour_logprobs)[batch.action_mask].abs().max())


def publish(policy: TrainablePolicy, worker: Any, version: int) -> Manifest:
    *buckets, manifest = pack(worker.spec.directory.name, version, adapters_only(policy.published()), 1 << 20)
    assert isinstance(manifest, Manifest)
    data = [bucket.data for bucket in buckets if isinstance(bucket, Bucket)]
    asyncio.run(worker.load_weights(manifest, *data))
    return manifest


def change(policy: TrainablePolicy, kind: str, seed: int) -> None:
    """Stand for an update that moves the policy far."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapters_only(policy.published()):
            if "lora_B" in name:
                parameter.normal_(std=FAR[kind])


def test_only_adapters_travel_and_the_canary_proves_them(
    kind: str, policy: TrainablePolicy, worker: Any
) -> None:
    start = asyncio.run(worker.canary())
    assert gap(policy, start) < 2e-5
    whole = sum(p.nbytes for name, p in policy.published() if "lora_" not in name)
    for version in (1, 2, 3):
        change(policy, kind, seed=version)
        assert gap(policy, start) > 1e-3
        manifest = publish(policy, worker, version)
        assert all("lora_" in spec.name for spec in manifest.tensors)
        assert sum(spec.num_bytes for spec in manifest.tensors) < whole / 4
        assert worker.stats()["version"] == version
        assert gap(policy, asyncio.run(worker.canary())) < 2e-5


def test_the_merged_export_and_the_adapter_give_the_same_logprobs(
    kind: str, directory: Path, policy: TrainablePolicy, worker: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    change(policy, kind, seed=9)
    publish(policy, worker, 9)
    example = asyncio.run(worker.canary())
    weights = {name: parameter.detach() for name, parameter in policy.published()}
    plain = policy_config(kind=CONFIGS[kind].kind)
    policy.export(
        tmp_path / "model",
        export_adapter(tmp_path / "adapter", adapter(kind), weights, net_name=policy.net_name),
    )
    merged = CLASSES[kind].load(tmp_path / "model", plain, block_names=BLOCKS).eval()
    adapted = CLASSES[kind].load(directory, plain, block_names=BLOCKS).eval()
    PeftModel.from_pretrained(adapted.trained_net, tmp_path / "adapter")
    assert gap(merged, example) < 2e-5
    assert gap(adapted, example) < 2e-5
