"""What this process did when, and what it does now: spans in wall-clock time, kept until somebody collects them.

Every worker process has one log, ``SPANS``. Writing a span costs microseconds and never waits; the log is bounded,
so a process that nobody collects from forgets its oldest spans and nothing else happens. Knows nothing of who
collects (``cluster.runtime.heartbeats``) or of trace files (``cluster.record.timeline``).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

Detail = str | int | float
"""What a span may be annotated with."""
MOST_SPANS = 20_000
"""Spans a process keeps for whoever collects them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One thing a process did, e.g. ``Span(name="paint", lane="", begin_s=1.7e9, seconds=0.4)``."""

    name: str
    lane: str = ""
    """Which of the process's activities it belongs to; '' is its main one."""
    overlaps: bool = False
    """Whether others of its lane may be under way at the same time (groups guided at once)."""
    begin_s: float
    """Wall clock, seconds since 1970."""
    seconds: float
    """How long it took; of one that is still open, how long it has taken so far."""
    details: Mapping[str, Detail] = field(default_factory=dict)
    """Step, weight version, batch size, chain."""

    @property
    def end_s(self) -> float:
        """Wall clock of its end."""
        return self.begin_s + self.seconds


_WALL_S = time.time() - time.perf_counter()


def _now_s() -> float:
    """Return the wall clock, seconds since 1970, as it goes on from the start of the process.

    It is never set back and is read once for each end of a span, so that spans of one lane nest or follow each other:
    trace viewers drop a span that half overlaps another.
    """
    return _WALL_S + time.perf_counter()


@dataclass(frozen=True, slots=True)
class _Open:
    """A span under way."""

    name: str
    lane: str
    overlaps: bool
    begin_s: float
    details: Mapping[str, Detail]

    def until(self, now_s: float) -> Span:
        return Span(
            name=self.name,
            lane=self.lane,
            overlaps=self.overlaps,
            begin_s=self.begin_s,
            seconds=now_s - self.begin_s,
            details=self.details,
        )


class SpanLog:
    """The spans of one process; safe from any thread."""

    def __init__(self, most: int = MOST_SPANS) -> None:
        self._done: deque[Span] = deque(maxlen=most)
        self._open: dict[int, _Open] = {}
        self._keys = itertools.count()
        self._lock = threading.Lock()
        self.num_lost = 0
        """Spans that were forgotten because nobody collected them in time."""

    @contextmanager
    def span(
        self, name: str, *, lane: str = "", overlaps: bool = False, **details: Detail
    ) -> Iterator[dict[str, Detail]]:
        """Note what the block does, also where it raises.

        Args:
            name: A verb, as short as it is clear.
            lane: See :class:`Span`.
            overlaps: See :class:`Span`.
            details: Numbers and words that tell this span from others of its name.

        Yields:
            The details, for what is known at the end only.
        """
        key = next(self._keys)
        begun = _Open(name, lane, overlaps, _now_s(), details)
        self._open[key] = begun
        try:
            yield details
        finally:
            del self._open[key]
            self.add(begun.until(_now_s()))

    def add(self, span: Span) -> None:
        """Keep a span that was measured elsewhere."""
        with self._lock:
            self.num_lost += len(self._done) == self._done.maxlen
            self._done.append(span)

    def take(self) -> list[Span]:
        """Return the spans that ended since the last call, oldest end first, and forget them."""
        with self._lock:
            taken = list(self._done)
            self._done.clear()
        return taken

    def under_way(self) -> list[Span]:
        """Return the spans that are open now, outermost first, each as long as it has taken so far."""
        now_s = _now_s()  # once: an outer span has taken no less than one inside it
        return [begun.until(now_s) for _, begun in sorted(self._open.copy().items())]


SPANS = SpanLog()
"""The log of this process."""

span = SPANS.span


@dataclass(slots=True)
class PoolMeter:
    """Counts what a pool has in hand and has done; used on one event loop, read from any thread."""

    pool: str = ""
    """``reward-<name>``; '' is the pool after which the worker is named, ``rollout-<policy>``."""
    num_in_hand: int = 0
    """Requests (text blocks, pictures, chains to score) that were asked for and are not answered."""
    num_done: int = 0
    """Requests answered so far."""
    version: int | None = None
    """Weight version of the worker, where it has weights."""

    @contextmanager
    def taking(self, num: int) -> Iterator[None]:
        """Count ``num`` requests in, and out again when they are answered or have failed."""
        self.num_in_hand += num
        try:
            yield
            self.num_done += num
        finally:
            self.num_in_hand -= num
