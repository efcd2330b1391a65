"""Placement of a run: its processes, and which of them share a bundle of resources on which machine. Pure.

A bundle is what Ray reserves in one piece: one GPU (or several, of a process that wants several) with everything
that shares it, or a process that needs none. Bundles of one machine are one placement group, so the table that
``vlcot plan`` prints is where the processes will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeVar

from configs.derive import eval_metrics, worker_processes
from configs.schema import Config

SHARE = 0.05
"""Logical CPUs a process reserves: rollout, reward and learner take turns, Ray must not keep them apart."""
GPU_DIGITS = 4
"""Ray counts GPUs in ten-thousandths."""

Item = TypeVar("Item")
Role = Literal["rollout", "learner", "reward", "scoring", "metrics", "runner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One worker process."""

    name: str
    """Role, key, index: ``rollout-text-0``."""
    role: Role
    key: str = ""
    """The policy or reward it belongs to."""
    num_gpus: float = 0.0
    """GPUs it reserves of its bundle; of a tensor parallel worker all."""
    num_threads: int = 1
    """CPU threads it computes with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Resources reserved in one piece, and who is in them."""

    processes: tuple[Process, ...]
    num_gpus: float = 0.0
    """GPUs; a fraction only where the run's last GPU is not filled."""

    @property
    def num_cpus(self) -> float:
        """Logical CPUs of all its processes."""
        return round(SHARE * len(self.processes), GPU_DIGITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The bundles of one machine."""

    bundles: tuple[Bundle, ...]

    @property
    def num_gpus(self) -> float:
        """GPUs of all bundles."""
        return round(sum(bundle.num_gpus for bundle in self.bundles), GPU_DIGITS)

    @property
    def num_cpus(self) -> float:
        """Logical CPUs of all bundles."""
        return round(sum(bundle.num_cpus for bundle in self.bundles), GPU_DIGITS)

    @property
    def num_threads(self) -> int:
        """CPU threads of all processes: what the machine's cores are shared by."""
        return sum(process.num_threads for bundle in self.bundles for process in bundle.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where every process of a run goes."""

    nodes: tuple[Node, ...]
    strategy: Literal["STRICT_PACK", "SPREAD"]
    """Ray's word for how the bundles of a placement group lie: on one machine, or (without GPUs) on as many as there
    are."""

    def processes(self) -> Iterator[Process]:
        """Yield all processes, machine by machine."""
        for bundle in self.bundles():
            yield from bundle.processes

    def bundles(self) -> Iterator[Bundle]:
        """Yield all bundles, machine by machine."""
        for node in self.nodes:
            yield from node.bundles

    def groups(self, node: Node, num_nodes: int) -> list[tuple[Bundle, ...]]:
        """Return the placement groups that a node's bundles are reserved in.

        Without GPUs a group for the workers of a kind, at most one a machine: Ray spreads the first bundles of a
        group only, and the ranks of a policy, or its rollout workers, belong on different machines.

        Args:
            node: One of this placement.
            num_nodes: Machines of the cluster.
        """
        if self.strategy == "STRICT_PACK":
            return [node.bundles]
        kinds: dict[tuple[str, str], list[Bundle]] = {}
        for bundle in node.bundles:
            first = bundle.processes[0]
            kinds.setdefault((first.role, first.key), []).append(bundle)
        size = max(1, num_nodes)
        return [
            tuple(bundles[begin : begin + size])
            for bundles in kinds.values()
            for begin in range(0, len(bundles), size)
        ]


def place(config: Config, *, learn: bool = True) -> Placement:
    """Lay out the processes of a valid configuration.

    Whole GPUs come first, in the order rollouts, learners, rewards; processes that want a part of one fill a GPU
    each, the largest first. What needs no GPU goes round the machines. A run without GPUs is one node, whose
    bundles are spread over the machines there are.

    Args:
        config: The run.
        learn: Whether it has learners.

    Returns:
        The same placement for the same configuration, always.
    """
    policies = [unit for name in config.policies for unit in _policy_units(config, name, learn=learn)]
    rewards = [(process,) for name in config.rewards for process in _reward_processes(config, name)]
    units = [*policies, *rewards]
    on_gpu = [unit for unit in units if _gpus(unit)]
    free = [Bundle(processes=unit) for unit in units if not _gpus(unit)]
    free.append(Bundle(processes=tuple(_guides(config))))
    if not on_gpu:
        return Placement(nodes=(Node(bundles=tuple(free)),), strategy="SPREAD")
    nodes = _first_fit(_gpu_bundles(on_gpu), lambda bundle: bundle.num_gpus, config.gpus_per_node)
    for index, bundle in enumerate(free):
        nodes[index % len(nodes)].append(bundle)
    return Placement(nodes=tuple(Node(bundles=tuple(node)) for node in nodes), strategy="STRICT_PACK")


# --------------------------------------------------------------------------------- processes


def _policy_units(config: Config, name: str, *, learn: bool) -> list[tuple[Process, ...]]:
    """Return a policy's processes; those that must be together (colocated) are one unit."""
    policy = config.policies[name]
    is_shared = config.colocate and learn
    share = policy.num_gpus / 2 if is_shared else policy.num_gpus
    num_ranks = policy.learner.num_ranks if learn else 0
    size = worker_processes(policy)
    rollouts = _workers("rollout", name, policy.rollout.num_workers, size * share, size * policy.num_threads)
    learners = _workers("learner", name, num_ranks, share, policy.num_threads)
    if is_shared:
        return list(zip(rollouts, learners, strict=True))
    return [(process,) for process in (*rollouts, *learners)]


def _reward_processes(config: Config, name: str) -> list[Process]:
    reward = config.rewards[name]
    num_threads = max(1, round(reward.num_cpus))
    return _workers("reward", name, reward.num_workers, reward.num_gpus, num_threads)


def _workers(role: Role, key: str, count: int, num_gpus: float, num_threads: int) -> list[Process]:
    return [
        Process(name=f"{role}-{key}-{index}", role=role, key=key, num_gpus=num_gpus, num_threads=num_threads)
        for index in range(count)
    ]


def _guides(config: Config) -> Iterator[Process]:
    """Yield the processes that move references about."""
    yield Process(name="scoring-0", role="scoring")
    if eval_metrics(config):
        yield Process(name="metrics-0", role="metrics")
    for index in range(config.num_runners):
        yield Process(name=f"runner-{index}", role="runner")


# --------------------------------------------------------------------------------- bundles, machines


def _gpus(processes: Iterable[Process]) -> float:
    return round(sum(process.num_gpus for process in processes), GPU_DIGITS)


def _gpu_bundles(units: Sequence[tuple[Process, ...]]) -> list[Bundle]:
    """Give whole GPUs to who wants them; let parts of a GPU share one, first fit, largest first."""
    whole = [unit for unit in units if _gpus(unit) >= 1]
    parts = sorted((unit for unit in units if _gpus(unit) < 1), key=_gpus, reverse=True)
    shared = [tuple(chain(*gpu)) for gpu in _first_fit(parts, _gpus, 1)]
    return [Bundle(processes=unit, num_gpus=_gpus(unit)) for unit in (*whole, *shared)]


def _first_fit(items: Iterable[Item], gpus: Callable[[Item], float], room: int) -> list[list[Item]]:
    """Lay items into places of ``room`` GPUs, each into the first that takes it."""
    places: list[list[Item]] = []
    for item in items:
        fitting = (place for place in places if round(sum(map(gpus, [*place, item])), GPU_DIGITS) <= room)
        place = next(fitting, None)
        if place is None:
            places.append([item])
        else:
            place.append(item)
    return places
