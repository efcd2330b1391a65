"""What tests on GPUs share: a mark that says what is not proved where there are too few, and processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

DEADLINE_S = 180.0


def needs_gpus(num: int, what: str) -> Any:
    """Return a mark that skips where there are fewer, and says what is then not proved."""
    there = torch.cuda.device_count()
    reason = f"{what} is not proved here: needs {num} CUDA GPU{'s' * (num > 1)}, this machine has {there}"
    return pytest.mark.skipif(there < num, reason=reason)


def in_processes(*jobs: Callable[[Any, Any], Any]) -> list[Any]:
    """Run each job in a process of its own, with a queue to each side; return their results in order.

    A job is called with the list of all jobs' queues and its index, and must return something plain.
    """
    context = mp.get_context("spawn")
    queues, results = [context.Queue() for _ in jobs], context.Queue()
    processes = [
        context.Process(target=_run, args=(job, index, queues, results), daemon=True)
        for index, job in enumerate(jobs)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < len(jobs):
            index, result = results.get(timeout=DEADLINE_S)
            assert not isinstance(result, Exception), result
            found[index] = result
    finally:
        end = time.monotonic() + 10
        for process in processes:
            process.join(timeout=max(0.1, end - time.monotonic()))
            if process.is_alive():
                process.kill()
    return [found[index] for index in range(len(jobs))]


def _run(job: Callable[[Any, Any], Any], index: int, queues: Any, results: Any) -> None:
    try:
        results.put((index, job(queues, index)))
    except Exception as error:  # noqa: BLE001  # raised where the result is awaited
        results.put((index, RuntimeError(f"{type(error).__name__}: {error}")))
