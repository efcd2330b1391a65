"""What the loop and the workers expect of each other, as protocols.

The loop talks to these and nothing else, so it runs in a unit test with fakes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rl.types import Example, Metrics, ScoredGroup, TrainBatch


class Store(Protocol):
    """Turns opaque handles into the arrays they stand for."""

    def get(self, handles: Sequence[object]) -> list[Example]:
        """Resolve all handles in one call, in order."""
        ...


class Collector(Protocol):
    """Yields scored groups; owns submission, validity and refill."""

    def next(self) -> tuple[Sequence[ScoredGroup], Metrics]:
        """Return the next step's trainable groups in id order, and what was met on the way."""
        ...


class Learners(Protocol):
    """All learner groups."""

    def update_all(self, batches: Mapping[str, Sequence[TrainBatch]]) -> Metrics:
        """Update every policy that has a batch, in parallel; no batch, no new version."""
        ...


class Publisher(Protocol):
    """Moves weights from learners to rollout workers and proves that they arrived."""

    def publish(self) -> None:
        """Publish every policy whose version moved; the proof goes on beside what follows."""
        ...

    def prove(self) -> Metrics:
        """Wait for the proof of what was published last; raise ``WeightSyncError`` if it fails."""
        ...


class Sink(Protocol):
    """Where metrics go."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Write one flat record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything the loop talks to."""

    collector: Collector
    learners: Learners
    publisher: Publisher
    sink: Sink
