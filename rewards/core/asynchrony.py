"""Event loop for the coroutines of reward functions written with ``async def``, from any thread."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Awaitable
from typing import Any


def finished(answer: Any) -> Any:
    """Return an answer, waiting for it first where it is a coroutine or another awaitable.

    All of them run on one event loop, which lives as long as the process: a client that an author keeps between
    calls belongs to the loop it was made on.
    """
    if not inspect.isawaitable(answer):
        return answer
    return asyncio.run_coroutine_threadsafe(_await(answer), _loop()).result()


async def _await(answer: Awaitable[Any]) -> Any:
    return await answer


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward-coroutines", daemon=True).start()
    return loop
