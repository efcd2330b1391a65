"""Register of the calls a process waits for: what a worker was asked to do is known even when it cannot answer."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Equal calls to one worker that are under way."""

    worker: str
    method: str
    num: int
    seconds: float
    """How long the oldest has been under way."""


class Outstanding:
    """The calls that are waited for in one process; safe from any thread."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[str, str, float]] = {}
        self._keys = itertools.count()

    @contextmanager
    def noted(self, calls: Sequence[tuple[str, str]]) -> Iterator[Callable[[int], None]]:
        """Hold calls while the block waits for them.

        Args:
            calls: Worker and method of each.

        Yields:
            Strikes out the call of that index, which has been answered.
        """
        keys = [next(self._keys) for _ in calls]
        now = time.perf_counter()
        for key, (worker, method) in zip(keys, calls, strict=True):
            self._calls[key] = (worker, method, now)
        try:
            yield lambda index: self._strike(keys[index])
        finally:
            for key in keys:
                self._strike(key)

    def _strike(self, key: int) -> None:
        self._calls.pop(key, None)

    def waits(self) -> list[Wait]:
        """Return what is waited for now, by worker and method, the longest wait first."""
        now = time.perf_counter()
        nums: Counter[tuple[str, str]] = Counter()
        since: dict[tuple[str, str], float] = {}
        for worker, method, begin in self._calls.copy().values():
            nums[worker, method] += 1
            since[worker, method] = min(begin, since.get((worker, method), now))
        waits = [Wait(worker=w, method=m, num=n, seconds=now - since[w, m]) for (w, m), n in nums.items()]
        return sorted(waits, key=lambda wait: -wait.seconds)


OUTSTANDING = Outstanding()
"""Those of this process."""
