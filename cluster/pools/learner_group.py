"""Learner group: the ranks of one policy, as the driver calls them: together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.runtime.calls import Call, Worker, gather, stream
from rl.types import Manifest

MODEL = "model"
"""Folder of a policy in a checkpoint that its plain library loads."""


@dataclass(slots=True)
class LearnerGroup:
    """The ranks of one policy."""

    policy: str
    ranks: Sequence[Worker]
    deadline_s: float
    version: int = 0
    """Weight version: +1 a published step."""

    def call_all(self, method: str, *args: object, **kwargs: Any) -> list[Call]:
        """Start a method on every rank; ranks only finish together."""
        return [rank.call(method, *args, **kwargs) for rank in self.ranks]

    def wait_all(self, method: str, *args: object, **kwargs: Any) -> list[Any]:
        """Call a method on every rank and wait."""
        return gather(self.call_all(method, *args, **kwargs), deadline_s=self.deadline_s)

    def load(self, folder: Path, version: int) -> None:
        """Load what ``save`` wrote; ``version`` is that of its weights."""
        self.wait_all("load", folder, "learner")
        self.version = version

    def save(self, folder: Path) -> None:
        """Write the ranks' state, and the policy as its plain library loads it."""
        self.wait_all("save", folder, "learner")
        self.wait_all("export", folder / MODEL)

    def publish(self, *, averaged: bool = False) -> tuple[Manifest, list[Any]]:
        """Run every rank's publication in lockstep; return rank 0's manifest and bucket references."""

        def published(rank: Worker) -> list[Any]:
            return stream(rank, "publish", deadline_s=self.deadline_s, averaged=averaged)

        with ThreadPoolExecutor(len(self.ranks)) as pool:
            values = list(pool.map(published, self.ranks))
        # The other ranks yield nothing, unless they failed. Rank 0's last value is the manifest, or its failure.
        *buckets, last = values[0]
        calls = [Call(self.ranks[0].name, "publish", last)]
        for rank, refs in zip(self.ranks[1:], values[1:], strict=True):
            calls += [Call(rank.name, "publish", ref) for ref in refs]
        manifest, *_ = gather(calls, deadline_s=self.deadline_s)
        return manifest, buckets
