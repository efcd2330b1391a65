"""Hosts of a cluster: where workers are and where they can meet, which host is gone, what all of them can read."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.calls import Call, Worker, gather, gather_by_name
from rl.errors import ConfigError


def has_room(num_gpus: float) -> bool:
    """Whether so many GPUs are free; there is always room for what needs none."""
    return num_gpus <= float(ray.available_resources().get("GPU", 0.0))


def locate(workers: Sequence[Worker], *, deadline_s: float) -> dict[str, str]:
    """Return the address of each worker's host, by the worker's name."""
    return gather_by_name([worker.call_function(_locate) for worker in workers], deadline_s=deadline_s)


def _locate(_: object) -> str:
    return str(ray.util.get_node_ip_address())


def rendezvous(rank: Worker, *, deadline_s: float) -> tuple[str, int]:
    """Return where processes that make a group can meet: the address of one's host, and a TCP port free there now."""
    (meeting,) = gather([rank.call_function(_rendezvous)], deadline_s=deadline_s)
    address, port = meeting
    return str(address), int(port)


def _rendezvous(_: object) -> tuple[str, int]:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return ray.util.get_node_ip_address(), listener.getsockname()[1]


def gone_hosts(addresses: Set[str]) -> list[str]:
    """Return which of some hosts Ray has given up."""
    if not ray.is_initialized():
        return []
    return sorted(addresses - {node["NodeManagerAddress"] for node in alive_nodes()})


def check_shared(paths: Mapping[str, Path], output_dir: Path, *, deadline_s: float) -> None:
    """Refuse a cluster on which some node cannot read what the run needs; nothing to do on one host.

    Args:
        paths: What every node must read, by the key that names it. Those this host lacks are not looked for.
        output_dir: Must be the same folder on all: learner ranks write their checkpoints there.
        deadline_s: Longest wait, seconds.

    Raises:
        ConfigError: Names node, path and key.
    """
    if len(alive_nodes()) < 2:
        return
    there = {key: str(path.resolve()) for key, path in paths.items() if path.exists()}
    with _marked(output_dir) as mark:
        there["output_dir"] = str(mark.resolve())
        unreadable = _on_every_node(_unreadable, there, deadline_s=deadline_s)
    for node, missing in unreadable.items():
        for key in missing:
            raise ConfigError(
                f"{key}: {node} cannot read {there[key]}; put it on a file system that all nodes mount at that path"
            )


@contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """Make a file in a folder by which it is known as the same one on other hosts, and remove it again."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".vlcot-{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def alive_nodes() -> list[dict[str, Any]]:
    """Return Ray's records of the nodes that are alive, in a fixed order."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return sorted(alive, key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))


def on_node(node: Mapping[str, Any]) -> NodeAffinitySchedulingStrategy:
    """Return the scheduling strategy of what must run on one node."""
    return NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)


def _on_every_node(work: Callable[..., Any], *args: object, deadline_s: float) -> dict[str, Any]:
    """Run a function once on each node, and return what it found by ``node <address>``."""
    task = ray.remote(num_cpus=0, max_retries=0)(work)
    calls = []
    for node in alive_nodes():
        ref = task.options(scheduling_strategy=on_node(node)).remote(*args)
        calls.append(Call(name=f"node {node['NodeManagerAddress']}", method=work.__name__, ref=ref))
    return gather_by_name(calls, deadline_s=deadline_s)


def _unreadable(paths: Mapping[str, str]) -> list[str]:
    """Return the keys of the paths that this node cannot read."""
    return [key for key, path in paths.items() if not os.access(path, os.R_OK)]
