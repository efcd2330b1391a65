"""Restarts of a run that loses a worker or a whole host: the loss is named, the run stopped or gone on with.

A lost worker ends the attempt. With ``on_lost_worker=replace`` the next one spawns everything again on the hosts
that are left and goes on from the newest checkpoint, as ``resume=true`` would; the steps since are done again.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ray.exceptions import RayError

from cluster.record.rundir import RunDir
from cluster.runtime.hosts import gone_hosts
from cluster.runtime.lost import losses_of
from configs.schema import Config
from rl.errors import CallTimeoutError, LostDataError, VlcotError, WorkerLostError

logger = logging.getLogger(__name__)

MOST_LOSSES = 3
"""Attempts in a row that may end with a loss before any made a new checkpoint."""

Result = TypeVar("Result")


def surviving(config: Config, run: RunDir, attempt: Callable[[], Result]) -> Result:
    """Make attempts at a run until one is not ended by a loss.

    Args:
        config: ``on_lost_worker`` decides whether there is another attempt.
        run: Its checkpoints are the progress between attempts.
        attempt: Goes on from the newest checkpoint to the end.

    Raises:
        WorkerLostError: One line; names host and workers, and how to go on.
    """
    num_losses, before = 0, _newest_step(run)
    while True:
        try:
            return attempt()
        except WorkerLostError as error:
            newest = _newest_step(run)
            num_losses = num_losses + 1 if newest == before else 1
            lost, before = str(error), newest
            if config.on_lost_worker == "stop":
                raise WorkerLostError(f"{lost}; {_remedy(newest)} (on_lost_worker=stop)") from error
            if num_losses >= MOST_LOSSES:
                raise WorkerLostError(
                    f"{lost}; {MOST_LOSSES} losses in a row without a checkpoint in between; {_remedy(newest)}"
                ) from error
        # The error's frames held the lost attempt; its handles must be gone before Ray starts again.
        gc.collect()
        logger.warning("%s; going on from %s on what is left", lost, _where(newest))


@contextmanager
def losses_named() -> Iterator[dict[str, str]]:
    """Turn whatever a lost worker or host brings about into one ``WorkerLostError`` that names both.

    Yields:
        The host's address by worker; filled by who spawns the workers.

    Raises:
        WorkerLostError: Instead of any error, or group of errors, that comes from a loss.
    """
    hosts: dict[str, str] = {}
    try:
        yield hosts
    except (VlcotError, RayError, BaseExceptionGroup) as error:
        gone = gone_hosts(set(hosts.values()))
        lost = losses_of(error)
        if not lost and not (gone and isinstance(error, CallTimeoutError)):
            raise
        raise WorkerLostError(describe_loss(lost, hosts, gone)) from error


def describe_loss(
    lost: Sequence[WorkerLostError | LostDataError], hosts: Mapping[str, str], gone: Sequence[str]
) -> str:
    """Say in one line which hosts or workers were lost.

    Args:
        lost: What calls ended with.
        hosts: Address by worker.
        gone: Addresses of hosts that Ray has given up.
    """
    if not gone:
        return str(lost[0])
    parts = []
    for host in gone:
        workers = ", ".join(sorted(name for name, where in hosts.items() if where == host))
        parts.append(f"host {host} was lost, with {workers or 'no worker'} on it")
    return "; ".join(parts)


def _newest_step(run: RunDir) -> int:
    checkpoint = run.newest_checkpoint()
    return checkpoint.step if checkpoint else 0


def _where(step: int) -> str:
    return f"the checkpoint of step {step}" if step else "the start"


def _remedy(step: int) -> str:
    return f"resume=true goes on from {_where(step)}"
