"""Weights between real Ray actors: what arrives is what was sent, and every way it can go wrong has a name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.weights.buckets import Bytes, stream_buckets, unpack
from actors.weights.inbox import LoadTimes
from cluster.pools.learner_group import LearnerGroup
from cluster.pools.learners import WeightPublisher
from cluster.runtime.calls import Worker, gather
from cluster.runtime.spawn import spawn
from configs.load import load_config
from rl.errors import WeightSyncError, WorkerLostError
from rl.measure.metrics import check_name
from rl.types import Example, Floats, Manifest, Metrics, TextSampling, TokenStream
from tests.reference.command import CALL_S

pytestmark = pytest.mark.ray

CONFIG = load_config("tiny")
AVERAGED = load_config("tiny", ["policies.text.learner.ema_decay=0.9"])


class Rank:
    """A learner whose only weight is its version, and half of it on average; a log-prob is minus the weight."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.begin()

    def begin(self) -> None:
        self.version, self.factor = 0, 0.5

    def average_over(self, factor: float) -> None:
        """Score under another average than is published."""
        self.factor = factor

    def advance(self) -> None:
        self.version += 1

    def publish(self, *, averaged: bool = False) -> Iterator[Any]:
        if self.rank == 0:
            weight = self.version * (0.5 if averaged else 1.0)
            tensors = [("a", torch.full((5,), weight)), ("b", torch.arange(200.0))]
            yield from stream_buckets("text", self.version, tensors, 256)

    def score(self, *examples: Example, averaged: bool = False) -> list[Floats]:
        weight = self.version * (self.factor if averaged else 1.0)
        return [np.full(4, -weight, dtype=np.float32) for _ in examples]


class Rollout:
    """Generates with the weight it has; can be told to keep an old one in a cache, or to lose a bit."""

    def __init__(self) -> None:
        self.set()

    def set(self) -> None:
        self.weight = 0.0
        self.keeps_cache = self.flips_bit = self.holds_canary = False

    async def begin(self) -> None:
        self.set()

    async def misbehave(
        self, *, keeps_cache: bool = False, flips_bit: bool = False, holds_canary: bool = False
    ) -> None:
        self.keeps_cache, self.flips_bit, self.holds_canary = keeps_cache, flips_bit, holds_canary

    async def load_weights(self, manifest: Manifest, *buckets: list[Bytes]) -> LoadTimes:
        arrived = [[piece.copy() for piece in bucket] for bucket in buckets]
        arrived[-1][0][0] ^= int(self.flips_bit)
        weights = dict(unpack(manifest, arrived))
        if not self.keeps_cache:
            self.weight = float(weights["a"][0])
        return LoadTimes(check_s=0.25, load_s=0.5)

    async def shown(self) -> float:
        return self.weight

    async def canary(self) -> Example:
        while self.holds_canary:
            await asyncio.sleep(0.05)
        mask = np.arange(4) >= 2
        stream = TokenStream(
            tokens=np.arange(4, dtype=np.int32),
            pictures=(),
            action_mask=mask,
            behaviour_logprobs=np.where(mask, -self.weight, 0).astype(np.float32),
            block_of=np.where(mask, 0, -1).astype(np.int8),
            sampling=TextSampling(),
        )
        return Example(segment=stream, pictures=())


@pytest.fixture(scope="module")
def actors(ray_cluster: None) -> Iterator[tuple[list[Worker], list[Worker]]]:
    ranks = [spawn(Rank, f"learner-text-{i}", num_cpus=0.1, kwargs={"rank": i}) for i in range(2)]
    rollouts = [new_rollout(i) for i in range(2)]
    yield ranks, rollouts
    for worker in (*ranks, *rollouts):
        ray.kill(worker.actor)


def new_rollout(index: int) -> Worker:
    return spawn(Rollout, f"rollout-text-{index}", num_cpus=0.1, max_concurrency=10, kwargs={})


@pytest.fixture
def system(
    actors: tuple[list[Worker], list[Worker]],
) -> tuple[WeightPublisher, LearnerGroup, list[Worker]]:
    """Nothing published yet, workers as they are born."""
    ranks, rollouts = actors
    group = LearnerGroup(policy="text", ranks=ranks, deadline_s=CALL_S)
    gather([worker.call("begin") for worker in (*ranks, *rollouts)], deadline_s=CALL_S)
    publisher = WeightPublisher(config=CONFIG, learners={"text": group}, rollouts={"text": rollouts})
    return publisher, group, rollouts


def advance(group: LearnerGroup) -> None:
    group.wait_all("advance")
    group.version += 1


def tell(worker: Worker, **kwargs: bool) -> None:
    gather([worker.call("misbehave", **kwargs)], deadline_s=CALL_S)


def test_every_worker_gets_the_weights_and_proves_them(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    publisher, group, _ = system
    assert publish_and_prove(publisher)["weights/text/canary_nats/max"] == 0
    advance(group)
    metrics = publish_and_prove(publisher)
    assert metrics["weights/text/canary_nats/0"] == metrics["weights/text/canary_nats/1"] == 0
    assert metrics["weights/text/published_bytes"] >= 4 * 205
    assert metrics["time/weights/text/send_s"] > 0
    assert (metrics["time/weights/text/check_s"], metrics["time/weights/text/load_s"]) == (0.25, 0.5)
    assert all(check_name(name) for name in metrics)
    assert publish_and_prove(publisher) == {}


def test_a_cache_that_was_kept_is_caught_by_the_workers_name(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    publisher, group, rollouts = system
    publish_and_prove(publisher)
    tell(rollouts[1], keeps_cache=True)
    advance(group)
    publisher.publish()
    for _ in range(2):
        with pytest.raises(
            WeightSyncError, match=r"rollout-text-1: after weight version 1 .* by 1\.00e\+00 nats"
        ):
            publisher.prove()


def test_a_flipped_bit_is_caught_by_bucket_and_worker(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    publisher, group, rollouts = system
    tell(rollouts[0], flips_bit=True)
    advance(group)
    with pytest.raises(WeightSyncError, match=r"policy text version 1: bucket 1 \(b") as caught:
        publisher.publish()
    assert "actor: rollout-text-0.load_weights" in caught.value.__notes__[0]


def publish_and_prove(publisher: WeightPublisher, *, averaged: bool = False) -> Metrics:
    publisher.publish(averaged=averaged)
    return publisher.prove()


def shown(rollouts: list[Worker]) -> list[float]:
    return gather([worker.call("shown") for worker in rollouts], deadline_s=CALL_S)


def test_the_average_is_published_and_proved_and_the_training_weights_after_it(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    publisher, group, rollouts = system
    publisher.config = AVERAGED
    publish_and_prove(publisher)
    advance(group)
    assert publish_and_prove(publisher, averaged=True)["weights/text/canary_nats/max"] == 0
    assert shown(rollouts) == [0.5, 0.5]
    assert publish_and_prove(publisher, averaged=True) == {}
    assert publish_and_prove(publisher)["weights/text/canary_nats/max"] == 0
    assert shown(rollouts) == [1, 1]


def test_an_average_that_the_learner_does_not_have_is_caught(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    publisher, group, _ = system
    publisher.config = AVERAGED
    advance(group)
    group.wait_all("average_over", 0.25)
    with pytest.raises(WeightSyncError, match=r"rollout-text-0: after weight version 1 .* by 2\.50e-01 nats"):
        publish_and_prove(publisher, averaged=True)


def test_a_policy_without_an_average_is_not_published_again(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    publisher, group, rollouts = system
    advance(group)
    publish_and_prove(publisher)
    assert publish_and_prove(publisher, averaged=True) == {}
    assert shown(rollouts) == [1, 1]


def test_a_step_reports_what_a_repair_published_in_its_place(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    """After an update a lost worker is replaced, and takes the new weights before the loop publishes them."""
    publisher, group, _ = system
    publish_and_prove(publisher)
    advance(group)
    publisher.publish()
    publisher.finish_proofs()
    metrics = publish_and_prove(publisher)
    assert metrics["weights/text/canary_nats/1"] == 0
    assert metrics["time/weights/text/send_s"] > 0
    assert publish_and_prove(publisher) == {}


def test_weights_that_wrote_chains_are_proved_before_averages_take_their_place(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    publisher, group, rollouts = system
    publisher.config = AVERAGED
    tell(rollouts[1], keeps_cache=True)
    advance(group)
    publisher.publish()
    tell(rollouts[1])
    with pytest.raises(
        WeightSyncError, match=r"rollout-text-1: after weight version 1 .* by 1\.00e\+00 nats"
    ):
        publisher.publish(averaged=True)


def test_a_worker_that_ends_before_its_canary_is_written_is_named_and_its_successor_proves_itself(
    system: tuple[WeightPublisher, LearnerGroup, list[Worker]],
) -> None:
    publisher, group, rollouts = system
    publish_and_prove(publisher)
    advance(group)
    tell(rollouts[0], holds_canary=True)
    publisher.publish()
    ray.kill(rollouts[0].actor)
    with pytest.raises(WorkerLostError, match=r"rollout-text-0"):
        publisher.prove()
    rollouts[0] = new_rollout(0)
    publisher.forget("text")
    assert publish_and_prove(publisher)["weights/text/canary_nats/0"] == 0
    assert shown(rollouts) == [1, 1]
