"""Event loop for the coroutines of reward functions written with ``async def``, from any thread."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any


def finished(answer: Any) -> Any:
    """Return an answer, waiting for it first where it is a coroutine or another awaitable.

    All of them run on one event loop, which lives as long as the process: a client that an author keeps between
    calls belongs to the loop it was made on.
    """
    if not inspect.isawaitable(answer):
        return answer
    return asyncio.run_coroutine_threadsafe(contained(answer), _loop()).result()


async def contained(answer: Awaitable[Any]) -> Any:
    """Wait for an awaitable whose author may call ``sys.exit``: that would end the loop, and all who wait for it.

    Raises:
        RuntimeError: In its place.
    """
    try:
        return await answer
    except SystemExit as error:
        raise RuntimeError(f"sys.exit({error.code!r}) was called") from error


@contextmanager
def own_event_loop() -> Iterator[None]:
    """Give this thread an event loop while the block runs, for authors who ask for the thread's."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward-coroutines", daemon=True).start()
    return loop
