"""One call of what many ask for within a moment: a call to an actor costs a millisecond, whatever is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Gathers what is asked for and calls once for all of it.

    Args:
        call: Answers several, in order. An exception among the answers is raised to the one who asked for it, one that
            is raised to all.
        moment_s: How long the first waits for others, seconds.
    """

    def __init__(
        self, call: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]], *, moment_s: float
    ) -> None:
        self._call, self._moment_s = call, moment_s
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, what: T) -> R:
        """Return the answer to one."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((what, answer))
        if len(self._waiting) == 1:
            loop.call_later(self._moment_s, self._start)
        return await answer

    def _start(self) -> None:
        asked, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._answer(asked))
        self._tasks.add(task)  # a loop holds its tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, asked: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        answers: Sequence[R | Exception]
        try:
            answers = await self._call([what for what, _ in asked])
        except Exception as error:  # noqa: BLE001  # to those who asked, whatever it is
            answers = [error] * len(asked)
        for (_, future), answer in zip(asked, answers, strict=True):
            if future.done():  # its asker has gone
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
