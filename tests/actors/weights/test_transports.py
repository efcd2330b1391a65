"""A process group of weights: what is sent arrives bit by bit, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from actors.weights.buckets import CPU, Received, pack, unpack
from actors.weights.group import WeightGroup
from actors.weights.inbox import LoadTimes, WeightInbox
from actors.weights.outbox import WeightOutbox
from rl.errors import WeightSyncError
from rl.types import Manifest

TENSORS = [("a", torch.randn(300)), ("b", torch.randn(7, 5).to(torch.bfloat16)), ("c", torch.randn(0))]


class Inbox(WeightInbox):
    """Keeps what arrived."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.weights: dict[str, torch.Tensor] = {}

    async def load_weights(self, manifest: Manifest, *buckets: Received) -> LoadTimes:
        self.weights = {name: tensor.clone() for name, tensor in unpack(manifest, buckets)}
        return LoadTimes(check_s=0.0, load_s=0.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def at_once(*jobs: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(job) for job in jobs]]


def join(inbox: Inbox, rank: int, size: int, port: int, deadline_s: float = 30) -> None:
    asyncio.run(inbox.join_group("gloo", rank, size, "127.0.0.1", port, deadline_s))


@pytest.fixture
def parties() -> tuple[WeightOutbox, list[Inbox]]:
    outbox, inboxes, port = WeightOutbox(CPU), [Inbox(), Inbox()], free_port()
    at_once(
        lambda: outbox.open_group("gloo", size=3, address="127.0.0.1", port=port, deadline_s=3),
        lambda: join(inboxes[0], 1, 3, port, 3),
        lambda: join(inboxes[1], 2, 3, port, 3),
    )
    return outbox, inboxes


def receive(inbox: Inbox) -> int:
    return asyncio.run(inbox.receive_weights())


@pytest.mark.parametrize("bucket_bytes", [100, 1 << 20])
def test_two_publications_arrive_bit_by_bit(parties, bucket_bytes):
    outbox, inboxes = parties
    for version in (1, 2):
        tensors = [(name, tensor * version) for name, tensor in TENSORS]
        parts = pack("text", version, tensors, bucket_bytes)
        manifest, *sizes = at_once(
            lambda p=parts: outbox.broadcast(p), *[lambda i=i: receive(i) for i in inboxes]
        )
        assert manifest.version == version
        assert sizes == [sum(manifest.bucket_bytes)] * 2
        for inbox in inboxes:
            asyncio.run(inbox.load_received(manifest))
            assert inbox.weights.keys() == {"a", "b", "c"}
            assert all(torch.equal(inbox.weights[name], tensor) for name, tensor in tensors)


def test_what_was_loaded_is_not_there_to_be_loaded_again(parties):
    outbox, inboxes = parties
    manifest, *_ = at_once(
        lambda: outbox.broadcast(pack("text", 1, TENSORS, 100)), *[lambda i=i: receive(i) for i in inboxes]
    )
    asyncio.run(inboxes[0].load_received(manifest))
    with pytest.raises(WeightSyncError, match="0 buckets arrived"):
        asyncio.run(inboxes[0].load_received(manifest))


def test_a_sender_whose_receiver_left_is_told_so(parties):
    outbox, inboxes = parties
    inboxes[1]._group.close()
    parts = (part for _ in range(20) for part in pack("text", 1, TENSORS, 100))
    with pytest.raises(WeightSyncError, match="gloo: member 0 lost the others in a broadcast"):
        outbox.broadcast(parts)
    with pytest.raises(WeightSyncError, match="has left the group"):
        outbox.broadcast(pack("text", 1, TENSORS, 100))


def test_a_receiver_whose_sender_is_silent_waits_as_long_as_its_deadline(parties):
    _, inboxes = parties
    begin = time.monotonic()
    with pytest.raises(WeightSyncError, match="gloo: member 1 lost the others"):
        receive(inboxes[0])
    assert 2 < time.monotonic() - begin < 20


def test_members_that_do_not_meet_are_told_where(monkeypatch):
    port = free_port()
    with pytest.raises(
        WeightSyncError, match=rf"member 0 of 2 did not meet .*127\.0\.0\.1:{port} within 1 s"
    ):
        WeightGroup("gloo", rank=0, size=2, address="127.0.0.1", port=port, deadline_s=1, device=CPU)


def test_without_a_group_nothing_is_sent_or_received():
    with pytest.raises(WeightSyncError, match="open_group comes first"):
        WeightOutbox(CPU).broadcast(pack("text", 1, TENSORS, 100))
    with pytest.raises(WeightSyncError, match="join_group comes first"):
        receive(Inbox())
