"""Monitor of the scoring actor, on the driver: metrics, tracebacks on the terminal, failed chains on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from ray.exceptions import RayError

from cluster.pools.reward_pool import PoolCounts
from cluster.pools.scoring import Failed, ScoringReport
from cluster.record.recorder import file_name, in_files, picture_file
from cluster.runtime.calls import Worker, fetch, gather
from rl.errors import VlcotError
from rl.ports import Collector
from rl.types import JsonDict, Metrics, Pixels, ScoredGroup

logger = logging.getLogger(__name__)

FOLDER = "failures"
"""In the run directory."""
MOST = 32
"""Chains written to it in one attempt of a run."""
TELL_S = 10.0
"""Longest wait for the scoring actor's report."""


@dataclass(slots=True)
class ScoringMonitor:
    """Asks the scoring actor what happened, says it once, and keeps count."""

    scoring: Worker
    folder: Path
    """The run directory."""
    counts: dict[str, PoolCounts] = field(default_factory=dict)
    logged: set[tuple[str, str]] = field(default_factory=set)
    """Rewards and faults that were on the terminal."""
    num_written: int = 0

    def listen(self) -> None:
        """Take the scoring actor's report: log new faults with their tracebacks, write their chains, add up counts.

        An actor that cannot answer is the business of those who wait for its scores.
        """
        try:
            (report,) = gather([self.scoring.call("report")], deadline_s=TELL_S)
        except VlcotError as error:
            logger.debug("no report of the rewards: %s", error)
            return
        self._take(report)

    def forget(self) -> None:
        """Leave out of the metrics what was scored until now, for an evaluation."""
        self.listen()
        self.counts = {}

    def metrics(self) -> Metrics:
        """Return what was counted since the last call, under its metric names."""
        counts, self.counts = self.counts, {}
        metrics: Metrics = {"time/reward_busy_s": sum(pool.busy_s for pool in counts.values())}
        for name, pool in counts.items():
            metrics |= {
                f"time/reward/{name}/busy_s": pool.busy_s,
                f"time/reward/{name}/queue_wait_s": pool.wait_s / max(pool.num_chains, 1),
                f"reward/{name}/num_replaced": float(pool.num_replaced),
                f"reward/{name}/num_redone": float(pool.num_redone),
            }
            if pool.num_cached:
                metrics[f"reward/{name}/cached_frac"] = pool.num_cached / max(pool.num_chains, 1)
        return metrics

    def _take(self, report: ScoringReport) -> None:
        for name, pool in report.counts.items():
            self.counts[name] = self.counts.get(name, PoolCounts()) + pool
        for failed in report.failed:
            where = self._write(failed, report.tracebacks[failed.reward].get(failed.fault, ""))
            if (failed.reward, failed.fault) not in self.logged:
                self.logged.add((failed.reward, failed.fault))
                logger.error("%s", describe(failed, report.tracebacks[failed.reward], where))

    def _write(self, failed: Failed, traceback: str) -> Path | None:
        if self.num_written >= MOST:
            return None
        self.num_written += 1
        path = self.folder / FOLDER / f"{failed.reward}__{file_name(failed.chain.chain_id)}"
        path.mkdir(parents=True, exist_ok=True)
        record = _record(failed, traceback)
        (path / "failure.json").write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
        try:
            pictures: Mapping[str, Pixels] = fetch(failed.chain.named_pictures, deadline_s=TELL_S)
        except RayError as error:  # they may have gone with the worker that made them
            logger.warning("%s: no pictures: %s", path, error)
            return path
        for name, pixels in pictures.items():
            Image.fromarray(pixels).save(path / picture_file(name))
        return path


@dataclass(slots=True)
class MonitoredCollector:
    """A ``Collector`` whose metrics hold those of the rewards' pools."""

    collector: Collector
    monitor: ScoringMonitor

    def next(self) -> tuple[Sequence[ScoredGroup], Metrics]:
        """Return the collector's groups, and its metrics with the pools' since the last call."""
        groups, metrics = self.collector.next()
        self.monitor.listen()
        return groups, metrics | self.monitor.metrics()


def describe(failed: Failed, tracebacks: Mapping[str, str], where: Path | None) -> str:
    """Say which reward failed on which chain and why, with its author's traceback where it raised."""
    reason = failed.scores[failed.reward].reasons[0]
    kept = f" (kept in {where})" if where else ""
    traceback = tracebacks.get(failed.fault, "").rstrip()
    head = f"reward {failed.reward} failed on {failed.chain.chain_id}{kept}: {reason}"
    return f"{head}\n{traceback}" if traceback else head


def _record(failed: Failed, traceback: str) -> JsonDict:
    return in_files(failed.chain) | {
        "reward": failed.reward,
        "reason": failed.scores[failed.reward].reasons[0],
        "traceback": traceback.splitlines(),
        "scores": {
            name: {
                "value": float(score.values[0]) if score.valid[0] else None,
                "missing": bool(score.missing[0]),
                "reason": score.reasons[0],
            }
            for name, score in failed.scores.items()
        },
    }
