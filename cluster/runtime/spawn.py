"""Spawning of actors: plain worker classes become Ray actors here, and only here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.runtime.calls import Worker
from cluster.runtime.heartbeats import forget_worker, send_heartbeats

logger = logging.getLogger(__name__)

CONCURRENCY = 1024
"""Calls an asynchronous worker takes at once: batches form inside it, not in front of it."""


def spawn(  # noqa: PLR0913 - a keyword for each of Ray's options that we use
    cls: type,
    name: str,
    *,
    num_cpus: float,
    num_gpus: float = 0.0,
    num_threads: int = 1,
    max_concurrency: int = 1,
    runtime_env: Mapping[str, Any] | None = None,
    where: PlacementGroupSchedulingStrategy | None = None,
    kwargs: dict[str, Any],
) -> Worker:
    """Start one actor around a plain worker class.

    Args:
        cls: Worker class; its constructor must be cheap (an error there only shows as a dead actor).
        name: Role, key, index.
        num_cpus: Logical CPUs it reserves.
        num_gpus: GPUs it reserves, fractions allowed.
        num_threads: OpenMP threads of the process.
        max_concurrency: Calls it serves at once (asynchronous workers).
        runtime_env: An environment of its own, in Ray's form; its ``env_vars`` go above ours.
        where: The bundle it goes in; None leaves the choice to Ray.
        kwargs: Constructor arguments.

    Returns:
        The worker; nothing has been waited for.
    """
    threads = str(num_threads)
    own = dict(runtime_env or {})
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        **own.pop("env_vars", {}),
    }
    actor = (
        ray.remote(cls)
        .options(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            max_concurrency=max_concurrency,
            scheduling_strategy=where,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": variables, **own},
        )
        .remote(**kwargs)
    )
    logger.debug("spawned %s", name)
    worker = Worker(name=name, actor=actor)
    send_heartbeats(worker)
    return worker


def kill(worker: Worker) -> None:
    """End an actor's process at once; what it was asked is never answered."""
    forget_worker(worker)
    ray.kill(worker.actor, no_restart=True)
