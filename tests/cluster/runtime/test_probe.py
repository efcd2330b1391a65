"""What is found wrong with a node: real probes in this process, and reports with one fault each."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import cluster.pools.gpu_sharing
import cluster.runtime.probe
from actors.policies.model_size import find_models
from cluster.pools.gpu_sharing import GpuSharing
from cluster.runtime.node_probe import NodeProbe
from cluster.runtime.probe import (
    DISTRIBUTIONS,
    MARKS,
    check_cluster,
    memory_faults,
    node_faults,
    reach_faults,
)
from configs.load import load_config
from configs.planning.plan import make_plan
from rl.errors import ConfigError, ImportOriginError

NAME = "node 10.0.0.2#1"


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return NodeProbe().facts(tuple(MARKS), DISTRIBUTIONS)


def test_this_machine_says_what_it_has(facts):
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1 << 28
    assert facts["versions"]["torch"]
    assert all(MARKS[package] in files for package, (_, files) in facts["origins"].items())


def test_a_node_like_this_one_is_fine(facts):
    assert node_faults(NAME, {**facts, "shm_bytes": 1 << 33}, facts, load_config("demo")) == []


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"python": "3.12.1"}, "Python", "lock file"),
        ({"versions": dict.fromkeys(DISTRIBUTIONS, "0.1")}, "ray", "lock file"),
        ({"shm_bytes": 1 << 20}, "/dev/shm", "--shm-size"),
        ({"cores": 0}, "cores", "num_threads"),
        ({"gpus": [(40960, 0)]}, "GPU 0", "gpu_gib"),
        ({"gpus": [(81920, 0), (81920, 40960)]}, "GPU 1", "end what runs there"),
    ],
)
def test_each_fault_has_node_and_remedy(facts, change, what, remedy):
    config = load_config("demo", ["policies.text.num_gpus=1"])
    found = node_faults(NAME, {**facts, "shm_bytes": 1 << 33} | change, facts, config)
    assert any(f.node == NAME and f.what == what and remedy in f.remedy for f in found), found


def test_nodes_that_cannot_be_reached_are_found():
    one, other = NodeProbe(), NodeProbe()
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        targets = {
            "one": ("127.0.0.1", one.listen()),
            "gone": ("127.0.0.1", int(taken.getsockname()[1])),
        }
        seen = other.reach(targets, 5.0)
    one.close()
    assert seen["one"] == ""
    assert "refused" in seen["gone"]
    (fault,) = reach_faults({("other", "gone"): seen["gone"]})
    assert (fault.node, fault.what) == ("other", "cannot reach gone")
    assert "--node-ip-address" in fault.remedy


def test_a_node_without_room_for_its_share_is_found():
    config = load_config("demo")
    plan = make_plan(config, find_models(config))
    share = sum(memory.total for memory in plan.memory.values())
    reports = {
        "a": {"memory_bytes": share},
        "b": {"memory_bytes": share // 2 - 1},
        "c": {"memory_bytes": share},
    }
    assert [fault.node for fault in memory_faults({"a": reports["b"]}, plan)] == ["a"]
    assert memory_faults(reports, plan) == []  # three nodes share it


def test_many_faults_are_one_table_and_one_line(facts, monkeypatch, capsys):
    shadowed = {**facts["origins"], "rewards": ("/home/me/rewards", ["__init__.py"])}
    bad = {**facts, "origins": shadowed, "python": "3.12.1", "shm_bytes": 1}
    monkeypatch.setattr(
        cluster.runtime.probe, "_ask", lambda deadline_s: ({NAME: bad}, {("a", "b"): "timed out"})
    )
    config = load_config("demo")
    with pytest.raises(ImportOriginError) as raised:
        check_cluster(config, make_plan(config, find_models(config)))
    assert isinstance(raised.value, ConfigError)
    assert "package 'rewards' is imported from /home/me/rewards" in str(raised.value)
    assert "\n" not in str(raised.value)
    said = " ".join(capsys.readouterr().out.split())
    for word in ("the cluster is not ready", "Python", "/dev/shm", "cannot reach b"):
        assert word in said


def test_turns_are_given_once_and_only_where_something_is_shared(monkeypatch):
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(
        cluster.pools.gpu_sharing,
        "switch",
        lambda workers, method, *, deadline_s: asked.append((workers[0], method)),
    )
    gpu_sharing = GpuSharing(
        learners={"text": ["learner"]}, rollouts={"text": ["rollout"]}, deadline_s=1.0, is_shared=True
    )
    gpu_sharing.wake("text", "rollout")
    assert asked == []
    gpu_sharing.wake_all("learner")
    gpu_sharing.wake("text", "learner")
    gpu_sharing.wake("text", "rollout")
    assert asked == [("rollout", "sleep"), ("learner", "wake"), ("learner", "sleep"), ("rollout", "wake")]
    asked.clear()
    GpuSharing(learners={"text": ["learner"]}, rollouts={"text": ["rollout"]}).wake("text", "learner")
    assert asked == []
