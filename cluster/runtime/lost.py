"""Which errors say that a worker, a host, or what they had made is lost; Ray has many for it."""

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

from rl.errors import LostDataError, VlcotError, WorkerLostError

_HOST = re.compile(r"^\s*ip: (\S+)", re.MULTILINE)


_ENDED = (RayActorError, WorkerCrashedError, NodeDiedError, LocalRayletDiedError, OutOfMemoryError)
"""Ray kills workers itself where a node runs out of memory."""


def as_loss(error: BaseException, where: str) -> WorkerLostError | LostDataError | None:
    """Return what an error says of a lost worker or lost data; None where it is about something else."""
    if isinstance(error, WorkerLostError | LostDataError):
        return error
    first = next(iter(str(error).splitlines()), "").rstrip(".")
    if isinstance(error, _ENDED):
        found = _HOST.search(str(error))
        host = f" on host {found[1]}" if found else ""
        return WorkerLostError(f"{where}: the worker process{host} ended: {first}")
    if isinstance(error, ObjectLostError):
        return LostDataError(f"{where}: what a lost worker had made is gone: {first}")
    return None


def losses_of(error: BaseException) -> list[WorkerLostError | LostDataError]:
    """Return the losses that an error or a group consists of; none where anything of ours is another failure."""
    leaves = list(_leaves(error))
    losses = [as_loss(leaf, "driver") for leaf in leaves]
    if any(loss is None and isinstance(leaf, VlcotError) for leaf, loss in zip(leaves, losses, strict=True)):
        return []
    return [loss for loss in losses if loss is not None]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        yield from _leaves(error.cause)
    else:
        yield error
