"""Calls to actors: every wait for one has a deadline, and a failure keeps its actor's name.

The only place in the project that may call ``ray.get``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from cluster.runtime.lost import as_loss, cause_of
from cluster.runtime.outstanding import OUTSTANDING
from rl.errors import CallTimeoutError, VlcotError, WorkerLostError
from rl.types import Example

logger = logging.getLogger(__name__)

SLOW_CALL_S = 30.0
"""A wait longer than this is written to the log."""
LOSS_S = 5.0
"""How long a failure waits for its cause: a rank whose peer is lost fails of a broken connection, maybe first."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One actor and the name it has in every log line and error."""

    name: str
    """Role, key, index: ``rollout-text-0``, ``reward-format-0``, ``learner-image-1``."""
    actor: ActorHandle

    def call(
        self, method: str, *args: object, num_returns: int | Literal["streaming"] = 1, **kwargs: object
    ) -> Call:
        """Start a method and return the pending call."""
        remote = getattr(self.actor, method).options(num_returns=num_returns)
        return Call(name=self.name, method=method, ref=remote.remote(*args, **kwargs))

    def call_function(self, function: Callable[..., Any], *args: object) -> Call:
        """Start a function in the actor's process; its first argument is the worker object that the actor holds."""
        ref = self.actor.__ray_call__.remote(function, *args)
        return Call(name=self.name, method=function.__name__.removeprefix("_"), ref=ref)


@dataclass(frozen=True, slots=True)
class Call:
    """A remote call under way; ``ref`` is a list where it has several results, a generator where it streams them."""

    name: str
    method: str
    ref: Any

    def __str__(self) -> str:
        """Return ``actor.method``."""
        return f"{self.name}.{self.method}"

    def first(self) -> Call:
        """Wait for the first of several results only."""
        return Call(name=self.name, method=self.method, ref=self.ref[0])


def translate(call: Call, error: BaseException) -> BaseException:
    """Turn Ray's wrapper into the error the worker raised, with the actor's name as a note."""
    inner = cause_of(error)
    if (lost := as_loss(inner, str(call))) is not None:
        return lost
    inner.add_note(f"actor: {call}" + (f"\n{error}" if isinstance(error, RayTaskError) else ""))
    return inner


def gather(
    calls: Sequence[Call], *, deadline_s: float, on_done: Callable[[int], None] | None = None
) -> list[Any]:
    """Wait for all calls and return their results in order.

    Args:
        calls: Pending calls.
        deadline_s: Longest wait for all of them, seconds.
        on_done: Told how many have been answered, whenever one has.

    Returns:
        One result a call.

    Raises:
        CallTimeoutError: If one outlives the deadline; the message names actors and methods.
        WorkerLostError: If a worker process ended.
        ExceptionGroup: If several calls failed; a single failure is raised as itself.
    """
    with OUTSTANDING.noted([(call.name, call.method) for call in calls]) as strike:
        return _gather(calls, deadline_s, on_done, strike)


def _gather(
    calls: Sequence[Call],
    deadline_s: float,
    on_done: Callable[[int], None] | None,
    strike: Callable[[int], None],
) -> list[Any]:
    """Do the work of :func:`gather`; ``strike`` is told the index of each call that has been answered."""
    by_ref = {call.ref: call for call in calls}
    index_of = {call.ref: index for index, call in enumerate(calls)}
    pending, answers, failures = list(by_ref), dict[Any, Any](), list[BaseException]()
    end, warned = time.monotonic() + deadline_s, False
    while pending:
        left = end - time.monotonic()
        if left <= 0:
            names = ", ".join(str(by_ref[ref]) for ref in pending)
            raise CallTimeoutError(f"no answer from {names} within {deadline_s:g} s (deadline_s)")
        done, pending = ray.wait(pending, timeout=min(left, SLOW_CALL_S))
        for ref in done:
            strike(index_of[ref])
            try:
                answers[ref] = ray.get(ref)
            except RayError as error:
                failures.append(translate(by_ref[ref], error))
        if failures:
            failures += _late_losses(failures, pending, by_ref)
            break
        if done and on_done is not None:
            on_done(len(by_ref) - len(pending))
        if not done and not warned:
            warned = True
            logger.info("still waiting for %s", ", ".join(str(by_ref[ref]) for ref in pending))
    raise_failures(failures)
    return [answers[call.ref] for call in calls]


def on_answer(call: Call, then: Callable[[Any], None]) -> None:
    """Have ``then`` called once, in a thread of Ray's, with a call's result or the error that :func:`gather` raises."""

    def answered(future: Future[Any]) -> None:
        error = future.exception()
        then(future.result() if error is None else translate(call, error))

    call.ref.future().add_done_callback(answered)


def gather_by_name(calls: Sequence[Call], *, deadline_s: float) -> dict[str, Any]:
    """Wait as :func:`gather` does, and return each call's result by the name of whom it went to."""
    results = gather(calls, deadline_s=deadline_s)
    return {call.name: result for call, result in zip(calls, results, strict=True)}


def _late_losses(
    failures: Sequence[BaseException], pending: Sequence[Any], by_ref: Mapping[Any, Call]
) -> list[BaseException]:
    """Return the losses behind failures that may only follow from them; waits ``LOSS_S`` at most."""
    if not pending or any(isinstance(f, VlcotError | BaseExceptionGroup) for f in failures):
        return []
    return list(_losses([by_ref[ref] for ref in pending], within_s=LOSS_S).values())


def lost_among(workers: Sequence[Worker], *, within_s: float) -> list[str]:
    """Return the names of the workers whose processes are gone; one that does not answer in time is busy."""
    losses = _losses([worker.call("__ray_ready__") for worker in workers], within_s=within_s)
    return [worker.name for worker in workers if worker.name in losses]


def _losses(calls: Sequence[Call], *, within_s: float) -> dict[str, WorkerLostError]:
    """Return, by worker, the losses that calls end with within some seconds."""
    by_ref = {call.ref: call for call in calls}
    losses: dict[str, WorkerLostError] = {}
    for ref in ray.wait(list(by_ref), num_returns=len(by_ref), timeout=within_s)[0]:
        try:
            ray.get(ref)
        except RayError as error:
            if isinstance(loss := translate(by_ref[ref], error), WorkerLostError):
                losses[by_ref[ref].name] = loss
    return losses


def is_answered(call: Call, *, within_s: float = 0.0) -> bool:
    """Whether a call has its result, or has failed; waits for it no longer than ``within_s`` seconds."""
    done, _ = ray.wait([call.ref], timeout=within_s)
    return bool(done)


def raise_failures(failures: Sequence[BaseException]) -> None:
    """Raise one failure as itself, several as a group; our own kind comes before a lost worker."""
    if not failures:
        return
    ours = [f for f in failures if isinstance(f, VlcotError)]
    if len(failures) == 1 or len(ours) == 1:
        raise ours[0] if ours else failures[0]
    raise BaseExceptionGroup("several workers failed", list(failures))


def stream(worker: Worker, method: str, *args: object, deadline_s: float, **kwargs: object) -> list[Any]:
    """Run a generator method to its end and return a reference a value, never the values."""
    call = worker.call(method, *args, num_returns="streaming", **kwargs)
    refs: list[Any] = []
    with OUTSTANDING.noted([(call.name, call.method)]):
        while ray.wait([call.ref], timeout=deadline_s, fetch_local=False)[0]:
            try:
                refs.append(next(call.ref))
            except StopIteration:
                return refs
    raise CallTimeoutError(f"no value from {call} within {deadline_s:g} s (deadline_s)")


async def answer(call: Call, *, deadline_s: float | None) -> Any:
    """Wait for one call inside an asynchronous actor; errors as in :func:`gather`.

    A deadline of None is for those who watch the actor themselves, and kill it when it is silent.
    """
    try:
        with OUTSTANDING.noted([(call.name, call.method)]):
            async with asyncio.timeout(deadline_s):
                return await call.ref
    except RayError as error:  # first: a worker's TimeoutError is both
        raise translate(call, error) from None
    except TimeoutError:
        raise CallTimeoutError(f"no answer from {call} within {deadline_s or 0:g} s (deadline_s)") from None


@dataclass(frozen=True, slots=True)
class SegmentHandle:
    """References to one segment, the pictures it names, and what its text encoders said."""

    segment: Any
    pictures: tuple[Any, ...]
    told: Any = None
    """Of a picture; several segments share one."""
    place: int | None = None
    """Which it is where ``segment`` is a list of several, as of a group's token streams; None where it is itself."""


class RayStore:
    """The ``Store`` port on Ray's object store."""

    def __init__(self, *, deadline_s: float) -> None:
        self._deadline_s = deadline_s

    def get(self, handles: Sequence[object]) -> list[Example]:
        """Fetch all segments and pictures in one call; arrays are read-only views."""
        ours = cast(Sequence[SegmentHandle], handles)  # nobody else makes any
        refs = list(
            {ref for one in ours for ref in (one.segment, *one.pictures, one.told) if ref is not None}
        )
        values = dict(zip(refs, ray.get(refs, timeout=self._deadline_s), strict=True))
        return [
            Example(
                segment=values[one.segment] if one.place is None else values[one.segment][one.place],
                pictures=tuple(values[ref] for ref in one.pictures),
                told=values.get(one.told),
            )
            for one in ours
        ]


def put(value: object) -> Any:
    """Place a value in the object store."""
    return ray.put(value)


def fetch(refs: Mapping[str, Any], *, deadline_s: float) -> dict[str, Any]:
    """Resolve a mapping of references."""
    values = ray.get(list(refs.values()), timeout=deadline_s)
    return dict(zip(refs, values, strict=True))
