"""Losses: the many errors by which Ray says that a worker, a host, or what they had made is gone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from configs.errors import first_line, leaves
from rl.errors import LostDataError, VlcotError, WorkerLostError

_HOST = re.compile(r"^\s*ip: (\S+)", re.MULTILINE)


_ENDED = (RayActorError, WorkerCrashedError, NodeDiedError, LocalRayletDiedError, OutOfMemoryError)
"""Ray kills workers itself where a node runs out of memory."""


def as_loss(error: BaseException, where: str) -> WorkerLostError | LostDataError | None:
    """Return what an error says of a lost worker or lost data; None where it is about something else."""
    if isinstance(error, WorkerLostError | LostDataError):
        return error
    first = first_line(error).rstrip(".")
    if isinstance(error, _ENDED):
        address = _HOST.search(str(error))
        host = f" on host {address[1]}" if address else ""
        return WorkerLostError(f"{where}: the worker process{host} ended: {first}")
    if isinstance(error, ObjectLostError):
        return LostDataError(f"{where}: what a lost worker had made is gone: {first}")
    return None


def losses_of(error: BaseException) -> list[WorkerLostError | LostDataError]:
    """Return the losses that an error or a group consists of; none where anything of ours is another failure."""
    causes = list(_causes(error))
    losses = [as_loss(cause, "driver") for cause in causes]
    if any(
        loss is None and isinstance(cause, VlcotError) for cause, loss in zip(causes, losses, strict=True)
    ):
        return []
    return [loss for loss in losses if loss is not None]


def cause_of(error: BaseException) -> BaseException:
    """Return what a worker raised, where Ray has wrapped it."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, BaseException) else error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what was raised first, below groups and Ray's wrappers."""
    for leaf in leaves(error):
        cause = cause_of(leaf)
        yield from (leaf,) if cause is leaf else _causes(cause)
