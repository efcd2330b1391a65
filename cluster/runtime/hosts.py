"""Hosts of a cluster: where workers are, which host is gone, what all of them can read."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.calls import Call, Worker, gather
from rl.errors import ConfigError


def has_room(num_gpus: float) -> bool:
    """Whether so many GPUs are free; there is always room for what needs none."""
    return num_gpus <= float(ray.available_resources().get("GPU", 0.0))


def locate(workers: Sequence[Worker], *, deadline_s: float) -> dict[str, str]:
    """Return the address of each worker's host, by the worker's name."""
    # Ray runs it inside the actor's process; the actor itself is not used.
    calls = [
        Call(name=worker.name, method="locate", ref=worker.actor.__ray_call__.remote(_address))
        for worker in workers
    ]
    return {
        call.name: str(address)
        for call, address in zip(calls, gather(calls, deadline_s=deadline_s), strict=True)
    }


def gone_hosts(addresses: Set[str]) -> list[str]:
    """Return which of some hosts Ray has given up."""
    return (
        sorted(addresses - {node["NodeManagerAddress"] for node in _alive()}) if ray.is_initialized() else []
    )


def check_shared(paths: Mapping[str, Path], output_dir: Path, *, deadline_s: float) -> None:
    """Refuse a cluster on which some node cannot read what the run needs; nothing to do on one host.

    Args:
        paths: What every node must read, by the key that names it. Those this host lacks are not looked for.
        output_dir: Must be the same folder on all: learner ranks write their checkpoints there.
        deadline_s: Longest wait, seconds.

    Raises:
        ConfigError: Names node, path and key.
    """
    if len(_alive()) < 2:
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


def _alive() -> list[dict[str, Any]]:
    """Ray's records of the nodes that are alive, in a fixed order."""
    return sorted(
        (n for n in ray.nodes() if n["Alive"]), key=lambda n: (n["NodeManagerAddress"], n["NodeID"])
    )


def _on_every_node(work: Callable[..., Any], *args: object, deadline_s: float) -> dict[str, Any]:
    """Run a function once on each node, and return what it found by ``node <address>``."""
    task = ray.remote(num_cpus=0, max_retries=0)(work)
    calls = []
    for node in _alive():
        where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        ref = task.options(scheduling_strategy=where).remote(*args)
        calls.append(Call(name=f"node {node['NodeManagerAddress']}", method=work.__name__, ref=ref))
    answers = gather(calls, deadline_s=deadline_s)
    return {call.name: answer for call, answer in zip(calls, answers, strict=True)}


def _unreadable(paths: Mapping[str, str]) -> list[str]:
    """Return the keys of the paths that this node cannot read."""
    return [key for key, path in paths.items() if not os.access(path, os.R_OK)]


def _address(_: object) -> str:
    return str(ray.util.get_node_ip_address())
