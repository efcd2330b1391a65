"""Rank processes: run a job in one or several, forked from a server that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp

from actors.shared.deepspeed_engine import stop_process_group

START = "forkserver"
# Starting a rank anew costs eight seconds of imports; the server does them once for all test files of a process.
multiprocessing.set_forkserver_preload(["tests.reference.rank_imports"])


def run_ranks(job: Callable[..., Any], world_size: int, *args: object, deadline_s: float = 150) -> list[Any]:
    """Run ``job(rank, world_size, port, *args)`` in ``world_size`` processes; return by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = mp.get_context(START).SimpleQueue()
    context = mp.start_processes(
        _run, (job, world_size, port, queue, args), nprocs=world_size, join=False, start_method=START
    )
    results: dict[int, Any] = {}
    end = time.monotonic() + deadline_s
    try:
        while len(results) < world_size:
            assert time.monotonic() < end, f"ranks {sorted(set(range(world_size)) - set(results))} hang"
            while not queue.empty():
                rank, result = queue.get()
                results[rank] = result
            context.join(timeout=0.1)
        context.join(timeout=30)
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [results[rank] for rank in range(world_size)]


def _run(rank: int, job: Callable[..., Any], world_size: int, port: int, queue: Any, args: Any) -> None:
    torch.set_num_threads(1)
    result = job(rank, world_size, port, *args)
    queue.put((rank, _as_numpy(result)))
    stop_process_group()
    # gloo's threads may outlive the group, and the interpreter's teardown aborts on them now and then. The result is
    # delivered (the queue writes at once), and an error has been raised before: end without a teardown.
    os._exit(0)


def _as_numpy(value: Any) -> Any:
    """Tensors would travel as file descriptors of a process that is about to end."""
    if isinstance(value, torch.Tensor):
        return np.array(value.float() if value.dtype is torch.bfloat16 else value)
    if isinstance(value, dict):
        return {key: _as_numpy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_numpy(item) for item in value]
    return value
