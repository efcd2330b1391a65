"""Placement groups: a plan's bundles reserved in Ray, and the place of each worker in them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.runtime.hosts import alive_nodes
from configs.planning.placement import SHARE, Bundle, Placement
from rl.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A placement whose bundles are held."""

    placement: Placement
    places: Mapping[str, tuple[PlacementGroup, int]]
    """Placement group of each process, and its bundle there."""

    def where(self, name: str) -> PlacementGroupSchedulingStrategy:
        """Return the scheduling strategy of a process of the plan."""
        group, bundle = self.places[name]
        return PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=bundle)

    def num_gpus(self, name: str) -> float:
        """Return what a process of the plan reserves of its bundle's GPUs."""
        return next(process.num_gpus for process in self.placement.processes() if process.name == name)


def trial_bundles(placement: Placement) -> list[dict[str, float]]:
    """Return the bundles of a trial's placement group: one for the trial's own process, then the placement's."""
    own = {"CPU": SHARE}
    return [own, *(_resources(bundle) for bundle in placement.bundles())]


def reserve(placement: Placement, *, deadline_s: float) -> Reserved:
    """Hold all bundles of a placement; those of the present trial where a search runs this (``trial_bundles``).

    Args:
        placement: From ``configs.planning.placement.place``.
        deadline_s: Longest wait, seconds.

    Raises:
        ConfigError: If the cluster does not have them in that time; says how many placement groups are missing.
    """
    if (trial := get_current_placement_group()) is not None:
        return Reserved(placement=placement, places=_places(trial, placement.bundles(), first=1))
    num_nodes = sum("CPU" in node["Resources"] for node in alive_nodes())
    parts = [part for node in placement.nodes for part in placement.groups(node, num_nodes)]
    groups = [placement_group([_resources(b) for b in part], strategy=placement.strategy) for part in parts]
    end = time.monotonic() + deadline_s
    missing = [group for group in groups if not group.wait(max(0.1, end - time.monotonic()))]
    if missing:
        for group in groups:
            remove_placement_group(group)
        node = max(placement.nodes, key=lambda node: node.num_gpus)
        raise ConfigError(
            f"the cluster has no room for {len(missing)} of the plan's {len(groups)} placement groups (its largest "
            f"machine has {node.num_gpus:g} GPUs and {node.num_cpus:g} CPUs) within {deadline_s:g} s; add machines, "
            "free them, or change gpus_per_node (vlcot plan shows the bundles)"
        )
    logger.debug("reserved %d bundles in %d groups", sum(map(len, parts)), len(groups))
    places: dict[str, tuple[PlacementGroup, int]] = {}
    for group, part in zip(groups, parts, strict=True):
        places |= _places(group, part)
    return Reserved(placement=placement, places=places)


def _places(
    group: PlacementGroup, bundles: Iterable[Bundle], first: int = 0
) -> dict[str, tuple[PlacementGroup, int]]:
    """Return where in a group each process of these bundles is."""
    return {
        process.name: (group, index)
        for index, bundle in enumerate(bundles, start=first)
        for process in bundle.processes
    }


def check_gpus(placement: Placement, there: Sequence[float], where: str) -> None:
    """Refuse machines that cannot hold the plan's, before anything waits for them.

    Args:
        placement: What is wanted.
        there: GPUs of each machine.
        where: For the message: ``the cluster``.

    Raises:
        ConfigError: If there are too few GPUs, or they are laid out otherwise.
    """
    wanted = sorted((node.num_gpus for node in placement.nodes), reverse=True)
    there = sorted(there, reverse=True)
    if sum(wanted) > sum(there):
        raise ConfigError(
            f"policies.*.num_gpus and rewards.*.num_gpus add up to {sum(wanted):g} GPUs, {where} has {sum(there):g}"
        )
    if not _fits(wanted, there):
        raise ConfigError(
            f"the plan wants machines of {', '.join(f'{n:g}' for n in wanted)} GPUs, {where} has machines of "
            f"{', '.join(f'{n:g}' for n in there)}; set gpus_per_node to what a machine has"
        )


def _fits(wanted: list[float], there: list[float]) -> bool:
    """Whether each of the wanted machines has room on some machine, largest first."""
    free = list(there)
    for need in wanted:
        free.sort()
        if not free or free[-1] < need:
            return False
        free[-1] -= need
    return True


def _resources(bundle: Bundle) -> dict[str, float]:
    resources = {"CPU": bundle.num_cpus}
    if bundle.num_gpus:
        resources["GPU"] = bundle.num_gpus
    return resources
