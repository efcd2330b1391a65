"""The object store and the gloo broadcast between real Ray actors: bit-identical weights, and losses by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch

from actors.weights.buckets import CPU, Bucket, BufferPool, Received, digest, pack, stream_buckets, unpack
from actors.weights.inbox import LoadTimes, WeightInbox
from actors.weights.outbox import WeightOutbox
from cluster.pools.learner_group import LearnerGroup
from cluster.pools.transports import Transport, make_transport
from cluster.runtime.calls import Worker, gather
from cluster.runtime.spawn import kill, spawn
from rl.errors import WorkerLostError
from rl.types import Manifest
from tests.reference.command import CALL_S
from tests.reference.policy_configs import policy_config

pytestmark = pytest.mark.ray

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.float16)
BUCKET_BYTES = 3000


def weights(version: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(version)
    return {
        f"layer.{i}": (100 * torch.randn(17 * i, 7, generator=generator)).to(DTYPES[i % len(DTYPES)])
        for i in range(9)
    }


class Rank:
    """A learner that publishes ``weights(version)`` as the real one does."""

    def __init__(self, rank: int) -> None:
        self._rank, self._version = rank, 0
        self._outbox, self._pool = WeightOutbox(CPU), BufferPool()

    def advance(self) -> None:
        self._version += 1

    def publish(self, *, averaged: bool) -> Iterator[Any]:
        if self._rank == 0:
            yield from stream_buckets("text", self._version, weights(self._version).items(), BUCKET_BYTES)

    def open_group(self, backend: Any, *, size: int, address: str, port: int) -> None:
        self._outbox.open_group(backend, size=size, address=address, port=port, deadline_s=CALL_S)

    def broadcast(self, *, averaged: bool) -> Manifest | None:
        return self._outbox.broadcast(self._parts()) if self._rank == 0 else None

    def _parts(self) -> Iterator[Bucket | Manifest]:
        return pack("text", self._version, weights(self._version).items(), BUCKET_BYTES, pool=self._pool)


class Rollout(WeightInbox):
    """Keeps digests of what it loaded."""

    def __init__(self) -> None:
        self._config = policy_config()
        self._loaded: dict[str, str] = {}

    async def load_weights(self, manifest: Manifest, *buckets: Received) -> LoadTimes:
        self._loaded = {name: _digest(tensor) for name, tensor in unpack(manifest, buckets)}
        return LoadTimes(check_s=0.0, load_s=0.0)

    async def loaded(self) -> dict[str, str]:
        return self._loaded


def _digest(tensor: torch.Tensor) -> str:
    return digest([tensor.reshape(-1).contiguous().view(torch.uint8).numpy()])


@pytest.fixture
def system(ray_cluster: None) -> Iterator[tuple[LearnerGroup, list[Worker]]]:
    ranks = [spawn(Rank, f"learner-text-{i}", num_cpus=0.1, kwargs={"rank": i}) for i in range(2)]
    workers = [
        spawn(Rollout, f"rollout-text-{i}", num_cpus=0.1, max_concurrency=10, kwargs={}) for i in range(2)
    ]
    yield LearnerGroup(policy="text", ranks=ranks, deadline_s=CALL_S), workers
    for worker in (*ranks, *workers):
        ray.kill(worker.actor)


def publish(transport: Transport, workers: list[Worker]) -> list[dict[str, str]]:
    transport.group.wait_all("advance")
    sent = transport.send(workers, averaged=False)
    assert transport.load(sent, workers) == {"check_s": 0.0, "load_s": 0.0}
    assert sent.manifest.version > 0
    return gather([worker.call("loaded") for worker in workers], deadline_s=CALL_S)


def test_broadcast_and_object_store_give_the_same_bits_and_a_lost_worker_is_named(
    system: tuple[LearnerGroup, list[Worker]],
) -> None:
    group, workers = system
    transport = make_transport("gloo", group)
    found = []
    for version, way in enumerate((make_transport("object_store", group), transport, transport), start=1):
        found.append(publish(way, workers))
        wanted = {name: _digest(tensor) for name, tensor in weights(version).items()}
        assert found[-1] == [wanted, wanted]
    assert found[0] != found[1]
    kill(workers[1])
    with pytest.raises(WorkerLostError, match="rollout-text-1"):
        publish(transport, workers)
    # A smaller set meets anew.
    assert len(publish(transport, workers[:1])) == 1
