"""Spawning of actors: plain worker classes become Ray actors here, and only here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.runtime.calls import Worker
from cluster.runtime.heartbeats import forget_worker, send_heartbeats
from configs.planning.placement import SHARE

logger = logging.getLogger(__name__)


def spawn(  # noqa: PLR0913 - a keyword for each of Ray's options that we use
    cls: type,
    name: str,
    *,
    num_cpus: float = SHARE,
    num_gpus: float = 0.0,
    num_threads: int = 1,
    max_concurrency: int | None = None,
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
        max_concurrency: Calls it serves at once. None is Ray's own: one, or 1000 of an asynchronous worker, in which
            batches form inside and not in front of it.
        runtime_env: An environment of its own, in Ray's form; its ``env_vars`` go above ours.
        where: The bundle it goes in; None leaves the choice to Ray.
        kwargs: Constructor arguments.

    Returns:
        The worker; nothing has been waited for.
    """
    own = dict(runtime_env or {})
    variables = {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(num_threads)),
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
