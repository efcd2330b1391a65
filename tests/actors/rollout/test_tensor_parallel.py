"""A rollout worker of two processes: samples what the learner scores, takes new weights, leaves nobody behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from actors.policies.token.policy import TokenPolicy
from actors.policies.token.vocabulary import load_vocabulary
from actors.weights.buckets import Bytes, stream_buckets
from rl.chain.scored import ScoredContext
from rl.types import Example, Manifest, Message, TextPart, TextRequest, TextSampling
from tests.reference.language_models import make
from tests.reference.policy_configs import policy_config
from tests.reference.rollout import make_worker

pytestmark = [pytest.mark.engine, pytest.mark.long]

BLOCKS = ("answer",)
TEMPERATURE = 0.9


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3")
    make("qwen3", path)
    return path


@pytest.fixture
def policy(directory: Path) -> TokenPolicy:
    return TokenPolicy.load(directory, policy_config(kind="token"), block_names=BLOCKS).eval()


@pytest.fixture(scope="module", params=[1, 2])
def worker(directory: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    config = policy_config(kind="token", temperature=TEMPERATURE, tensor_parallel=request.param)
    before = children()
    made = make_worker(directory, config, BLOCKS)
    assert len(children() - before) >= (request.param if request.param > 1 else 0)
    yield made
    made.close()
    assert children() <= before


def children() -> set[int]:
    """Processes of this one that run; Python's own bookkeepers of shared memory live as long as it."""
    found = psutil.Process().children(recursive=True)
    return {p.pid for p in found if "resource_tracker" not in " ".join(p.cmdline())}


def sample(worker: Any, directory: Path) -> list[Example]:
    vocabulary = load_vocabulary(directory, BLOCKS)
    ids = vocabulary.encode((Message(role="user", parts=(TextPart("a cat on a red chair"),)),))
    requests = [
        TextRequest(
            request_id=f"chain-{seed}",
            tokens=np.asarray(ids, dtype=np.int32),
            pictures=(),
            max_tokens=12,
            stop_ids=tuple(sorted(vocabulary.tags.end)),
            sampling=TextSampling(temperature=TEMPERATURE, forbidden_ids=vocabulary.forbidden_ids),
            seed=seed,
        )
        for seed in range(6)
    ]
    replies = asyncio.run(worker.generate(requests))
    examples = []
    for request, reply in zip(requests, replies, strict=True):
        scored = ScoredContext()
        scored.add(0, request.tokens, reply.tokens, reply.logprobs, ())
        examples.append(Example(segment=scored.stream(request.sampling), pictures=()))
    return examples


def worst(policy: TokenPolicy, examples: list[Example]) -> float:
    batch = policy.collate(examples)
    with torch.no_grad():
        scored = policy(batch.inputs).logprobs
    return float((scored - batch.behaviour_logprobs)[batch.action_mask].abs().max())


def test_one_process_or_two_sample_what_the_learner_scores(
    worker: Any, policy: TokenPolicy, directory: Path
) -> None:
    torch.manual_seed(0)
    for version in range(3):
        if version:
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.add_(0.02 * torch.randn(parameter.shape))
            *buckets, manifest = stream_buckets("text", version, policy.published(), 1 << 16)
            assert isinstance(manifest, Manifest)
            data: list[list[Bytes]] = [bucket for bucket in buckets if not isinstance(bucket, Manifest)]
            asyncio.run(worker.load_weights(manifest, *data))
        assert worst(policy, sample(worker, directory)) < 1e-5
        assert worst(policy, [asyncio.run(worker.canary())]) < 1e-5
