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
from cluster.runtime.calls import Call, Worker, gather
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
        """Update all policies at once; a policy without a batch keeps its version.

        Returns:
            What the updates measured, and each policy's version after them.
        """
        calls = []
        for policy in batches:
            self.gpu_sharing.wake(policy, "learner")
        for policy, steps in batches.items():
            calls += self.groups[policy].call_all("update", steps)
        answers: list[Sequence[UpdateStats]] = gather(calls, deadline_s=self.deadline_s)
        for policy in batches:
            self.groups[policy].version += 1
        versions = {f"weights/{name}/version": float(group.version) for name, group in self.groups.items()}
        return to_metrics(merge([stats for ranks in answers for stats in ranks])) | versions


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
    _proofs: dict[str, Proof] = field(default_factory=dict, init=False)
    """By policy, what is under way."""
    _unreported: dict[str, Metrics] = field(default_factory=dict, init=False)
    """By policy, what was measured since :meth:`prove` last returned."""

    def publish(self, *, averaged: bool = False) -> None:
        """Publish every policy whose workers have something else, and start the proof that they have it.

        What was published before is proved first: chains may have been written with it. Where learners and workers take
        turns on a GPU, the new proof is made at once too.

        Args:
            averaged: Publish the moving averages instead, of the policies that keep one (``ema_decay``): for
                evaluation. Call it without before sampling goes on.

        Raises:
            WeightSyncError: If weights did not arrive intact, or those before them fail their proof.
        """
        self.finish_proofs()
        for policy, group in self.learners.items():
            wanted = (group.version, averaged and self.config.policies[policy].learner.ema_decay > 0)
            if self.published.get(policy) != wanted:
                self._publish(policy, group, averaged=wanted[1])
                self.published[policy] = wanted

    def forget(self, policy: str) -> None:
        """Have a policy published and proved anew: one of its workers was replaced, and has nothing to prove."""
        self.published.pop(policy, None)
        self._proofs.pop(policy, None)

    def prove(self) -> Metrics:
        """Wait for the proofs that are under way.

        Call it before anything is trained on, or measured, that the new weights wrote.

        Returns:
            What was measured since the last call: also of what a repair published, which replaced a worker.

        Raises:
            WeightSyncError: If a worker computes something else than its learner.
        """
        self.finish_proofs()
        metrics: Metrics = {}
        for measured in self._unreported.values():
            metrics |= measured
        self._unreported.clear()
        return metrics

    def finish_proofs(self) -> None:
        """Wait as :meth:`prove` does, and leave what was measured to its next call."""
        for policy, proof in list(self._proofs.items()):
            self._unreported[policy] |= proof.gaps(self.config.deadline_s)
            del self._proofs[policy]

    def _publish(self, policy: str, group: LearnerGroup, *, averaged: bool) -> None:
        workers = self.rollouts[policy]
        if policy not in self.transports:
            self.transports[policy] = make_transport(self.config.policies[policy].rollout.transport, group)
        transport = self.transports[policy]
        self.gpu_sharing.wake(policy, "learner")
        begin = time.perf_counter()
        sent = transport.send(workers, averaged=averaged)
        seconds = {"send_s": time.perf_counter() - begin}
        self.gpu_sharing.wake(policy, "rollout")
        seconds |= transport.load(sent, workers)
        self._unreported[policy] = {
            f"weights/{policy}/published_bytes": float(sum(sent.manifest.bucket_bytes)),
            **{f"time/weights/{policy}/{name}": value for name, value in seconds.items()},
        }
        self._start_proof(policy, group, averaged=averaged)

    def _start_proof(self, policy: str, group: LearnerGroup, *, averaged: bool) -> None:
        """Have the workers write their canaries and the learner score them: nobody else waits for either."""
        canaries = [worker.call("canary") for worker in self.rollouts[policy]]
        if self.gpu_sharing.is_shared:
            gather(canaries, deadline_s=self.config.deadline_s)
            self.gpu_sharing.wake(policy, "learner")
        self._proofs[policy] = Proof(
            policy=policy,
            version=group.version,
            tolerance=canary_tolerance(self.config.policies[policy]),
            canaries=canaries,
            scores=group.call_all("score", *(call.ref for call in canaries), averaged=averaged),
        )
        if self.gpu_sharing.is_shared:
            self.finish_proofs()
            self.gpu_sharing.wake(policy, "rollout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Proof under way that a policy's rollout workers compute what its learner does."""

    policy: str
    version: int
    tolerance: float
    """Largest difference, nats."""
    canaries: Sequence[Call]
    """One a worker."""
    scores: Sequence[Call]
    """One a rank of the learner, of all canaries."""

    def gaps(self, deadline_s: float) -> Metrics:
        """Wait, and return the largest difference of each worker, nats.

        Raises:
            WeightSyncError: If one is above the tolerance.
            WorkerLostError: If a worker's process ended.
            CallTimeoutError: If one outlived the deadline.
        """
        examples: list[Example] = gather(self.canaries, deadline_s=deadline_s)
        scores = gather(self.scores, deadline_s=deadline_s)[0]
        gaps: Metrics = {}
        for index, (call, example, logprobs) in enumerate(zip(self.canaries, examples, scores, strict=True)):
            gap = canary_gap(example.segment, logprobs)
            if not gap <= self.tolerance:
                raise WeightSyncError(
                    f"{call.name}: after weight version {self.version} its log-probs differ from the learner's by "
                    f"{gap:.2e} nats (policies.{self.policy}.rollout.canary_tolerance_nats: {self.tolerance:g})"
                )
            gaps[f"weights/{self.policy}/canary_nats/{index}"] = gap
        return {
            **gaps,
            f"weights/{self.policy}/canary_nats/max": max(gaps.values()),
            f"weights/{self.policy}/canary_nats/tolerance": self.tolerance,
        }


def canary_gap(segment: TokenStream | DenoisingSegment, logprobs: np.ndarray[Any, Any]) -> float:
    """Return the largest log-prob difference over the canary's actions, nats."""
    mask = segment.action_mask
    if not mask.any():
        raise WeightSyncError("the canary holds no action: nothing is proved")
    return float(np.abs(segment.behaviour_logprobs[mask] - logprobs[mask]).max())
