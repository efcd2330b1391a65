"""Learners and weight publication, the driver's side: updates of all policies, weights moved and proved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.pools.gpu_sharing import GpuSharing
from cluster.pools.learner_group import LearnerGroup
from cluster.pools.transports import Transport, make_transport
from cluster.runtime.calls import Worker, gather, put
from configs.derive import canary_tolerance
from configs.schema import Config
from rl.errors import WeightSyncError
from rl.measure.metrics import merge, to_metrics
from rl.types import DenoisingSegment, Example, Metrics, TokenStream, TrainBatch, UpdateStats


@dataclass(slots=True)
class LearnerGroups:
    """All policies' learners: the ``Learners`` port."""

    groups: Mapping[str, LearnerGroup]
    deadline_s: float
    gpu_sharing: GpuSharing = field(default_factory=GpuSharing)

    def update_all(self, batches: Mapping[str, Sequence[TrainBatch]]) -> Metrics:
        """Update all policies at once; a policy without a batch keeps its version."""
        calls = []
        for policy in batches:
            self.gpu_sharing.wake(policy, "learner")
        for policy, steps in batches.items():
            calls += self.groups[policy].call_all("update", steps)
        answers: list[Sequence[UpdateStats]] = gather(calls, deadline_s=self.deadline_s)
        for policy in batches:
            self.groups[policy].version += 1
        return to_metrics(merge([stats for ranks in answers for stats in ranks]))


@dataclass(slots=True)
class WeightPublisher:
    """Moves weights from learners to rollout workers and proves them: the ``Publisher`` port."""

    config: Config
    learners: Mapping[str, LearnerGroup]
    rollouts: Mapping[str, Sequence[Worker]]
    gpu_sharing: GpuSharing = field(default_factory=GpuSharing)
    published: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """What each policy's rollout workers have: the version, and whether it is the moving average of it."""
    transports: dict[str, Transport] = field(default_factory=dict)
    """By policy, made when first used."""
    _unreported: dict[str, Metrics] = field(default_factory=dict, init=False)
    """By policy, what was measured since :meth:`publish_and_prove` last returned."""

    def publish_and_prove(self, *, averaged: bool = False) -> Metrics:
        """Publish as :meth:`publish` does.

        Returns:
            What was measured since the last call: also in a repair between them, which replaced a worker.
        """
        self.publish(averaged=averaged)
        metrics = {
            f"weights/{policy}/version": float(group.version) for policy, group in self.learners.items()
        }
        for measured in self._unreported.values():
            metrics |= measured
        self._unreported.clear()
        return metrics

    def publish(self, *, averaged: bool = False) -> None:
        """Publish every policy whose workers have something else, then compare canaries.

        Args:
            averaged: Publish the moving averages instead, of the policies that keep one (``ema_decay``): for
                evaluation. Call it without before sampling goes on.

        Raises:
            WeightSyncError: If a worker computes something else than its learner.
        """
        for policy, group in self.learners.items():
            wanted = (group.version, averaged and self.config.policies[policy].learner.ema_decay > 0)
            if self.published.get(policy) != wanted:
                self._unreported[policy] = self._publish(policy, group, averaged=wanted[1])
                self.published[policy] = wanted

    def _publish(self, policy: str, group: LearnerGroup, *, averaged: bool) -> Metrics:
        deadline_s, workers = self.config.deadline_s, self.rollouts[policy]
        if policy not in self.transports:
            self.transports[policy] = make_transport(self.config.policies[policy].rollout.transport, group)
        transport = self.transports[policy]
        self.gpu_sharing.wake(policy, "learner")
        begin = time.perf_counter()
        sent = transport.send(workers, averaged=averaged)
        seconds = {"send_s": time.perf_counter() - begin}
        self.gpu_sharing.wake(policy, "rollout")
        seconds |= transport.load(sent, workers)
        examples: list[Example] = gather([w.call("canary") for w in workers], deadline_s=deadline_s)
        self.gpu_sharing.wake(policy, "learner")
        scores = group.wait_all("score", put(examples), averaged=averaged)[0]
        self.gpu_sharing.wake(policy, "rollout")
        tolerance = canary_tolerance(self.config.policies[policy])
        gaps: Metrics = {}
        for index, (worker, example, logprobs) in enumerate(zip(workers, examples, scores, strict=True)):
            gap = canary_gap(example.segment, logprobs)
            if not gap <= tolerance:
                raise WeightSyncError(
                    f"{worker.name}: after weight version {sent.manifest.version} its log-probs differ from the "
                    f"learner's by {gap:.2e} nats (policies.{policy}.rollout.canary_tolerance_nats: {tolerance:g})"
                )
            gaps[f"weights/{policy}/canary_nats/{index}"] = gap
        return {
            **gaps,
            f"weights/{policy}/canary_nats/max": max(gaps.values()),
            f"weights/{policy}/canary_nats/tolerance": tolerance,
            f"weights/{policy}/published_bytes": float(sum(sent.manifest.bucket_bytes)),
            **{f"time/weights/{policy}/{name}": value for name, value in seconds.items()},
        }


def canary_gap(segment: TokenStream | DenoisingSegment, logprobs: np.ndarray[Any, Any]) -> float:
    """Return the largest log-prob difference over the canary's actions, nats."""
    mask = segment.action_mask
    if not mask.any():
        raise WeightSyncError("the canary holds no action: nothing is proved")
    return float(np.abs(segment.behaviour_logprobs[mask] - logprobs[mask]).max())
