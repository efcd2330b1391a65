"""What it costs to give new weights to four workers of one machine, beside one memory copy of them.

    python -m benchmarks.weight_publish

The weights are 400 MB of float32 in tensors of a transformer's sizes; learner rank and workers are real Ray actors,
driven by the transport the run uses. *Send* is all of publishing: packing into buckets, digests, Ray's object store
(or the broadcast), and telling the workers. *Check* is the slowest worker's digests, *load* its copy into weights of
its own. A copy is ``torch.Tensor.copy_`` of the same bytes, into memory that was written before, in the same process
and between the rounds. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from actors.weights.buckets import CPU, Bucket, BufferPool, Received, ahead, pack, stream_buckets, unpack
from actors.weights.inbox import LoadTimes, WeightInbox
from actors.weights.outbox import WeightOutbox
from cluster.pools.learner_group import LearnerGroup
from cluster.pools.transports import make_transport
from cluster.runtime.calls import Worker, gather
from cluster.runtime.console import bar
from cluster.runtime.spawn import spawn
from configs.schema import Config
from rl.types import Manifest, Metrics

ROOT = Path(__file__).resolve().parents[1]
BUCKET_BYTES = Config().bucket_mib << 20
NUM_BYTES = 400_000_000
WIDTH, HIDDEN, VOCABULARY = 1024, 2816, 16_000
DEADLINE_S = 300.0
STORE_BYTES = 2 << 30


def model_like(num_bytes: int) -> dict[str, Tensor]:
    """Return random float32 weights of about ``num_bytes`` bytes, named and shaped as a transformer's."""
    shapes: dict[str, tuple[int, ...]] = {"embed": (VOCABULARY, WIDTH)}
    layer = 0
    while sum(4 * torch.Size(shape).numel() for shape in shapes.values()) < num_bytes:
        for name, shape in (
            ("q", (WIDTH, WIDTH)),
            ("k", (256, WIDTH)),
            ("v", (256, WIDTH)),
            ("o", (WIDTH, WIDTH)),
            ("gate", (HIDDEN, WIDTH)),
            ("up", (HIDDEN, WIDTH)),
            ("down", (WIDTH, HIDDEN)),
            ("norm", (WIDTH,)),
        ):
            shapes[f"layers.{layer}.{name}"] = shape
        layer += 1
    return {name: torch.rand(shape) for name, shape in shapes.items()}


class Rank:
    """A learner rank that has weights and publishes them; nothing is trained."""

    def __init__(self, num_bytes: int) -> None:
        self._weights = model_like(num_bytes)
        self._target = {name: tensor.clone() for name, tensor in self._weights.items()}
        self._outbox, self._pool = WeightOutbox(CPU), BufferPool()
        self._version = 0

    def copy_s(self) -> float:
        """Time one copy of all weights."""
        begin = time.perf_counter()
        for name, tensor in self._weights.items():
            self._target[name].copy_(tensor)
        return time.perf_counter() - begin

    def num_bytes(self) -> int:
        """Return the size of the weights, bytes."""
        return sum(tensor.nbytes for tensor in self._weights.values())

    def publish(self, *, averaged: bool) -> Iterator[Any]:
        """Stream buckets and manifest, as ``LearnerRank`` does."""
        self._version += 1
        yield from ahead(stream_buckets("policy", self._version, self._weights.items(), BUCKET_BYTES))

    def open_group(self, backend: Any, *, size: int, address: str, port: int) -> None:
        """Become the sender of a process group."""
        self._outbox.open_group(backend, size=size, address=address, port=port, deadline_s=DEADLINE_S)

    def broadcast(self, *, averaged: bool) -> Manifest:
        """Send through the process group."""
        return self._outbox.broadcast(self._parts())

    def _parts(self) -> Iterator[Bucket | Manifest]:
        self._version += 1
        return pack("policy", self._version, self._weights.items(), BUCKET_BYTES, pool=self._pool)


class Receiver(WeightInbox):
    """Loads by copying into weights of its own, as the picture worker does."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self._weights: dict[str, Tensor] = {}

    async def load_weights(self, manifest: Manifest, *buckets: Received) -> LoadTimes:
        """Check and copy."""
        begin = time.perf_counter()
        tensors = unpack(manifest, buckets)
        checked = time.perf_counter()
        for name, tensor in tensors:
            if name in self._weights:
                self._weights[name].copy_(tensor)
            else:
                self._weights[name] = tensor.clone()
        return LoadTimes(check_s=checked - begin, load_s=time.perf_counter() - checked)


def measure(kinds: Sequence[str], *, num_bytes: int, num_workers: int, rounds: int) -> Table:
    """Publish by each way in turn and return the table of medians."""
    rank = spawn(Rank, "learner-0", num_cpus=0.1, kwargs={"num_bytes": num_bytes})
    workers = [
        spawn(Receiver, f"rollout-{i}", num_cpus=0.1, max_concurrency=8, kwargs={})
        for i in range(num_workers)
    ]
    group = LearnerGroup(policy="policy", ranks=[rank], deadline_s=DEADLINE_S)
    ways = {kind: make_transport(kind, group) for kind in kinds}
    copies: list[float] = []
    found: dict[str, list[Metrics]] = {kind: [] for kind in kinds}
    with bar("publish", total=rounds + 1) as show:
        for index in range(rounds + 1):
            for kind, way in ways.items():
                begin = time.perf_counter()
                sent = way.send(workers, averaged=False)
                seconds = {"send_s": time.perf_counter() - begin, **way.load(sent, workers)}
                copied = _ask(rank, "copy_s")
                if index:  # the first round touches memory for the first time
                    found[kind].append(seconds)
                    copies.append(copied)
            show(index + 1)
    return _table(found, statistics.median(copies), _ask(rank, "num_bytes"), num_workers)


def _ask(worker: Worker, method: str) -> Any:
    (answer,) = gather([worker.call(method)], deadline_s=DEADLINE_S)
    return answer


def _table(found: dict[str, list[Metrics]], copy_s: float, num_bytes: int, num_workers: int) -> Table:
    title = f"{num_bytes / 1e6:.0f} MB to {num_workers} workers; one copy {1e3 * copy_s:.0f} ms"
    table = Table(title=title, title_justify="left")
    for column in ("transport", "send, ms", "x copy", "check, ms", "load, ms"):
        table.add_column(column, justify="left" if column == "transport" else "right")
    for kind, rounds in found.items():
        send, check, load = (
            statistics.median(seconds[field] for seconds in rounds)
            for field in ("send_s", "check_s", "load_s")
        )
        cells = (f"{1e3 * send:.0f}", f"{send / copy_s:.2f}", f"{1e3 * check:.0f}", f"{1e3 * load:.0f}")
        table.add_row(kind, *cells)
    return table


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=NUM_BYTES // 1_000_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    try:
        table = measure(
            ("object_store", "gloo"),
            num_bytes=arguments.megabytes * 1_000_000,
            num_workers=arguments.workers,
            rounds=arguments.rounds,
        )
    finally:
        ray.shutdown()
    Console().print(table)


if __name__ == "__main__":
    main()
