"""Gauges of a run among Ray's metrics: for the Ray dashboard, and for the Prometheus that scrapes a cluster.

Ray exports them as ``ray_vlcot_*`` at each node's metrics port. They are set in the process that has the pool, by
the thread that sends its heartbeats: nothing is done a request.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ray.util.metrics import Gauge

from rl.spans import PoolMeter
from rl.types import Metrics

QUEUE_DEPTH = "vlcot_queue_depth"
CHAINS_PER_S = "vlcot_chains_per_s"
VERSION = "vlcot_weight_version"
STALENESS = "vlcot_staleness"
STEP = "vlcot_step"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """What a worker says of one of its pools."""

    pool: str
    num_in_hand: int
    """Requests asked for and not answered."""
    num_done: int
    """Requests answered so far."""
    done_per_s: float
    """Since the heartbeat before."""
    version: int | None = None
    """Weight version of the worker, where it has weights."""


class PoolGauges:
    """Sets the gauges of one worker's pools. Units: requests (chains to score, text blocks, pictures)."""

    def __init__(self, *, worker: str, run: str) -> None:
        self._pool = worker.rpartition("-")[0] or worker
        self._tags = {"worker": worker, "run": run}
        self._before: dict[str, tuple[float, int]] = {}
        keys = ("pool", "worker", "run")
        self._depth = Gauge(QUEUE_DEPTH, "requests in hand: asked for and not answered", tag_keys=keys)
        self._rate = Gauge(CHAINS_PER_S, "requests answered a second (rewards: chains)", tag_keys=keys)
        self._version = _version_gauge()

    def observe(self, meters: Sequence[PoolMeter], *, version: int | None) -> list[PoolState]:
        """Read the meters, set the gauges, and return what was read.

        Args:
            meters: Of the worker's pools.
            version: Weight version of a worker without a pool (a learner rank); None where it has no weights.
        """
        states = [self._state(meter) for meter in meters]
        version = next((s.version for s in states if s.version is not None), version)
        for state in states:
            tags = self._tags | {"pool": state.pool}
            self._depth.set(state.num_in_hand, tags=tags)
            self._rate.set(state.done_per_s, tags=tags)
        if version is not None:
            self._version.set(version, tags=self._tags)
        return states

    def _state(self, meter: PoolMeter) -> PoolState:
        now, done = time.perf_counter(), meter.num_done
        then, before = self._before.get(meter.pool, (now, done))
        self._before[meter.pool] = (now, done)
        rate = (done - before) / (now - then) if now > then else 0.0
        return PoolState(
            pool=meter.pool or self._pool,
            num_in_hand=meter.num_in_hand,
            num_done=done,
            done_per_s=round(rate, 3),
            version=meter.version,
        )


def _version_gauge() -> Gauge:
    return Gauge(VERSION, "weight version of a worker", tag_keys=("worker", "run"))


class RunGauges:
    """A sink: step, staleness and published versions by policy, set by the driver once a step."""

    def __init__(self, *, run: str) -> None:
        self._run = {"run": run}
        self._step = Gauge(STEP, "GRPO steps done", tag_keys=("run",))
        self._staleness = Gauge(
            STALENESS, "learner's version minus a chain's lowest, at most", tag_keys=("policy", "run")
        )
        self._version = _version_gauge()

    def log(self, step: int, metrics: Metrics) -> None:
        """Set what the step's metrics say."""
        self._step.set(step + 1, tags=self._run)
        for name, value in metrics.items():
            match name.split("/"):
                case ["weights", policy, "staleness", "max"]:
                    self._staleness.set(value, tags=self._run | {"policy": policy})
                case ["weights", policy, "version"]:
                    self._version.set(value, tags=self._run | {"worker": f"published-{policy}"})
