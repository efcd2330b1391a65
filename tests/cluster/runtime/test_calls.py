"""Every wait has a deadline, and a failure keeps its own type and its actor's name."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from cluster.runtime import hosts
from cluster.runtime.calls import RayStore, SegmentHandle, Worker, fetch, gather, lost_among, put, stream
from cluster.runtime.hosts import locate
from cluster.runtime.spawn import spawn
from rl.errors import CallTimeoutError, ConfigError, RewardError, WorkerLostError
from rl.types import DenoisingSegment, SamplerSpec
from tests.reference.command import CALL_S

pytestmark = pytest.mark.ray


class Noted:
    """Writes down in which process it is read from the object store."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __reduce__(self):
        return _read_noted, (self.notes,)


def _read_noted(notes: Path) -> Noted:
    with notes.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return Noted(notes)


class Probe:
    def echo(self, value):
        return value

    def fail(self, message):
        raise RewardError(message)

    def sleep(self, seconds):
        time.sleep(seconds)

    def die(self, after_s=0.0):
        time.sleep(after_s)
        os._exit(1)

    def lose_connection(self):
        raise RuntimeError("Connection closed by peer")

    def count(self, num):
        yield from (i for i in range(num))  # Ray wants a true generator


def start(name: str) -> Worker:
    return spawn(Probe, name, num_cpus=0.1, kwargs={})


def test_results_come_in_order(ray_cluster):
    worker = start("probe-0")
    assert gather([worker.call("echo", i) for i in range(5)], deadline_s=CALL_S) == list(range(5))


def test_an_answer_is_deserialised_once(ray_cluster, tmp_path):
    worker = start("probe-8")
    gather([worker.call("echo", Noted(tmp_path / "notes"))], deadline_s=CALL_S)
    assert (tmp_path / "notes").read_text().split().count(str(os.getpid())) == 1


def test_a_busy_worker_is_not_lost(ray_cluster):
    worker = start("probe-9")
    worker.call("sleep", 3)
    assert lost_among([worker], within_s=0.5) == []


def test_a_failure_keeps_type_and_actor(ray_cluster):
    worker = start("probe-1")
    with pytest.raises(RewardError, match="no weights") as caught:
        gather([worker.call("echo", 1), worker.call("fail", "no weights")], deadline_s=CALL_S)
    assert any("probe-1.fail" in note for note in caught.value.__notes__)


def test_a_slow_call_ends_with_its_name(ray_cluster):
    worker = start("probe-2")
    gather([worker.call("echo", 1)], deadline_s=CALL_S)
    with pytest.raises(CallTimeoutError, match=r"probe-2\.sleep"):
        gather([worker.call("sleep", 30)], deadline_s=0.5)


def test_a_lost_worker_is_named(ray_cluster):
    worker = start("probe-3")
    with pytest.raises(WorkerLostError, match=r"probe-3\.die"):
        gather([worker.call("die")], deadline_s=CALL_S)


def test_a_failure_that_follows_from_a_loss_is_told_as_the_loss(ray_cluster):
    """A rank may say that its connection broke before Ray says that the peer is gone."""
    rank, peer, other = start("probe-5"), start("probe-6"), start("probe-7")
    gather([worker.call("echo", 1) for worker in (rank, peer, other)], deadline_s=CALL_S)
    with pytest.raises(WorkerLostError, match=r"probe-6\.die: the worker process on host \S+ ended"):
        gather([rank.call("lose_connection"), peer.call("die", 1.0)], deadline_s=CALL_S)
    assert lost_among([rank, peer, other], within_s=60) == ["probe-6"]
    assert set(locate([rank, other], deadline_s=CALL_S)) == {"probe-5", "probe-7"}


def test_a_node_that_cannot_read_a_path_is_named(ray_cluster, tmp_path, monkeypatch):
    """One node stands for two: the same one is asked twice, and this process has what it lacks."""
    (node,) = hosts.alive_nodes()
    monkeypatch.setattr(hosts, "alive_nodes", lambda: [node, node])
    there = tmp_path / "there"
    there.mkdir()
    hosts.check_shared({"policies.text.source": there}, tmp_path, deadline_s=CALL_S)
    assert list(tmp_path.iterdir()) == [there], "the mark is removed"
    monkeypatch.setattr(hosts, "_unreadable", lambda paths: ["policies.text.source"])
    with pytest.raises(ConfigError, match=rf"policies.text.source: node \S+ cannot read {there}; put it on"):
        hosts.check_shared({"policies.text.source": there}, tmp_path, deadline_s=CALL_S)


def test_a_stream_gives_one_reference_a_value(ray_cluster):
    worker = start("probe-4")
    refs = stream(worker, "count", 3, deadline_s=CALL_S)
    assert list(fetch({str(i): ref for i, ref in enumerate(refs)}, deadline_s=CALL_S).values()) == [
        0,
        1,
        2,
    ]


def test_the_store_puts_pictures_beside_their_segment(ray_cluster):
    segment = DenoisingSegment(
        block="final_image",
        latents=np.zeros((3, 3, 4, 4), np.float32),
        timesteps=np.array([1000.0, 500.0], np.float32),
        levels=np.array([1.0, 0.5, 0.0], np.float32),
        behaviour_logprobs=np.zeros(2, np.float32),
        action_mask=np.array([True, False]),
        pictures=("degraded",),
        size_px=4,
        height_px=4,
        seed=0,
        sampler=SamplerSpec(),
    )
    picture = np.full((4, 4, 3), 7, np.uint8)
    told = put(np.arange(4, dtype=np.uint8))
    handles = [SegmentHandle(put(segment), (put(picture),), told), SegmentHandle(put(segment), (), told)]
    example, other = RayStore(deadline_s=CALL_S).get(handles)
    assert example.segment.block == "final_image"
    np.testing.assert_array_equal(example.pictures[0], picture)
    assert example.told is not None
    assert example.told is other.told
    assert example.told.tolist() == [0, 1, 2, 3]
