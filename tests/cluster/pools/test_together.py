"""Several askers, one call: who is answered what, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cluster.pools.together import Together


def test_what_is_asked_within_a_moment_is_one_call_and_each_gets_its_own_answer() -> None:
    calls: list[list[int]] = []

    async def double(numbers: Sequence[int]) -> list[int | Exception]:
        calls.append(list(numbers))
        return [2 * n if n >= 0 else ValueError(str(n)) for n in numbers]

    async def main() -> None:
        together = Together(double, moment_s=0.05)
        first = [asyncio.create_task(together.ask(n)) for n in (1, 2, -3)]
        await asyncio.sleep(0)
        gone = asyncio.create_task(together.ask(4))
        await asyncio.sleep(0)
        gone.cancel()
        answers = await asyncio.gather(*first, return_exceptions=True)
        assert answers[:2] == [2, 4]
        assert isinstance(answers[2], ValueError)
        assert await together.ask(5) == 10

    asyncio.run(main())
    assert calls == [[1, 2, -3, 4], [5]]


def test_an_error_of_the_call_is_everyones() -> None:
    async def fail(numbers: Sequence[int]) -> list[int]:
        raise ConnectionError("lost")

    async def main() -> None:
        together = Together(fail, moment_s=0.0)
        for answer in await asyncio.gather(together.ask(1), together.ask(2), return_exceptions=True):
            with pytest.raises(ConnectionError, match="lost"):
                raise answer

    asyncio.run(main())
