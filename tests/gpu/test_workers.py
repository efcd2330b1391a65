"""Workers on a GPU: asleep they give memory back, awake they go on as before, and in bfloat16 they still agree."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner.micro_batches import inputs_on
from actors.policies.base import TrainablePolicy
from actors.policies.denoising.policy import DenoisingPolicy
from actors.policies.restoration.small import build_image_policy
from actors.policies.token.policy import TokenPolicy
from actors.weights.buckets import Bucket, pack
from configs.schema import PolicyConfig
from rl.types import Example
from tests.reference.gpu import in_processes, needs_gpus
from tests.reference.learner_jobs import LIFE, STEPS, make_batch, make_learner, received
from tests.reference.painting import load
from tests.reference.policy_configs import policy_config
from tests.reference.rollout import make_worker
from tests.reference.tiny_policy import write_start
from tests.reference.tiny_text import BLOCKS, build

pytestmark = [pytest.mark.gpu, pytest.mark.engine]

DEVICE = torch.device("cuda", 0)
BFLOAT16_NATS = {"text": 0.05, "image": 2e-3}
"""Mean difference of log-probs that two implementations in bfloat16 may have (text a token, pictures a mean over
elements)."""
SHARE = 0.25
"""Of the GPU, for each worker here."""


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


@pytest.fixture(scope="module")
def config(kind: str) -> PolicyConfig:
    if kind == "text":
        return policy_config(kind="token", temperature=0.9, dtype="bfloat16", num_gpus=SHARE)
    return policy_config(kind="denoising", micro_batch_size=4, dtype="bfloat16", num_gpus=SHARE)


@pytest.fixture(scope="module")
def policy(kind: str, directory: Path, config: PolicyConfig) -> TrainablePolicy:
    """In bfloat16, as DeepSpeed has it in the forward pass."""
    family: type[TrainablePolicy] = TokenPolicy if kind == "text" else DenoisingPolicy
    found = family.load(directory, config, block_names=BLOCKS).to(DEVICE, torch.bfloat16)
    return found.eval()


@pytest.fixture(scope="module")
def worker(kind: str, directory: Path, config: PolicyConfig) -> Iterator[Any]:
    made: Any = make_worker(directory, config, BLOCKS)
    yield made
    made.close()


def gaps(policy: TrainablePolicy, example: Example) -> torch.Tensor:
    batch = policy.collate([example])
    inputs = inputs_on(DEVICE, batch)
    with torch.no_grad():
        scores = policy(inputs).logprobs.float().cpu()
    return (scores - batch.behaviour_logprobs)[batch.action_mask].abs()


@needs_gpus(1, "the agreement of rollout worker and learner in bfloat16")
def test_in_bfloat16_learner_and_worker_agree(kind: str, policy: TrainablePolicy, worker: Any) -> None:
    with torch.no_grad():
        for parameter in policy.trained_net.parameters():
            parameter.mul_(1.02)
    parts = pack(kind, 1, policy.published(), 1 << 22, device=DEVICE)
    *buckets, manifest = parts
    tensors = [bucket.tensor for bucket in buckets if isinstance(bucket, Bucket)]
    asyncio.run(worker.load_weights(manifest, *tensors))
    found = gaps(policy, asyncio.run(worker.canary()))
    assert len(found) > 1
    assert found.mean() < BFLOAT16_NATS[kind]


@needs_gpus(1, "sleeping and waking of rollout workers")
def test_a_worker_that_slept_gave_memory_back_and_goes_on_as_before(kind: str, worker: Any) -> None:
    before = asyncio.run(worker.canary()).segment.behaviour_logprobs
    assert asyncio.run(worker.sleep()) > 0
    asyncio.run(worker.wake())
    after = asyncio.run(worker.canary()).segment.behaviour_logprobs
    np.testing.assert_array_equal(before, after)


def _learner_that_sleeps(queues: Any, index: int, *, start: Path, naps: bool, stage: int) -> dict[str, Any]:
    config = policy_config(zero_stage=stage, num_gpus=SHARE, ema_decay=0.3, **LIFE)
    learner, examples = make_learner(start, config, 0, 1, 0)
    freed = 0
    for step in STEPS:
        learner.update([make_batch(examples, step, 1, 4)])
        if naps:
            freed += learner.sleep()
            learner.wake()
    averaged = received(learner, averaged=True)
    return {
        "freed": freed,
        "weights": {name: tensor.tolist() for name, tensor in received(learner).items()},
        "average": {name: tensor.tolist() for name, tensor in averaged.items()},
    }


@needs_gpus(1, "sleeping and waking of learners")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_learner_that_slept_learns_the_same(stage: int, tmp_path: Path) -> None:
    write_start(tmp_path)
    life = partial(_learner_that_sleeps, start=tmp_path, stage=stage)
    slept, awake = (in_processes(partial(life, naps=naps))[0] for naps in (True, False))
    assert slept["freed"] >= 0
    assert slept["weights"] == awake["weights"]
    assert slept["average"] == awake["average"]
