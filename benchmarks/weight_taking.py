"""How a rollout worker should take new weights while it writes, by answers of equal and of lognormal length.

    python -m benchmarks.weight_taking

The workers of ``benchmarks.sampling_ahead`` on a clock that jumps to the next event, so nothing waits and nothing
disturbs: same capacity (``rl.ahead``), same lengths, no Ray. A step is compared with the longer of its two stages
alone, over 200 steps. With 16 rows a worker writes all its answers of a step at once; with 4 they wait for a row.
"""

from __future__ import annotations

import asyncio
import selectors

from benchmarks.sampling_ahead import GROUP_SIZE, NUM_WORKERS, WAYS, Writer, config_of
from cluster.pools.collector import sampling_ahead
from rl.ahead import DataPosition, Draw
from rl.types import TextRequest, TextSampling

NUM_STEPS = 200


class JumpingSelector(selectors.SelectSelector):
    """Never waits: the time that it was to wait for has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return at once."""
        self.now += timeout or 0.0
        return super().select(0)


async def simulate(*, rows: int, ahead: int, update_s: float, lengths: str, way: str) -> float:
    """Make steps and return the seconds of one."""
    workers = [Writer(lengths=lengths, is_drained=way != "between", rows=rows) for _ in range(NUM_WORKERS)]
    book = sampling_ahead(config_of(ahead, NUM_STEPS), step=0, start=DataPosition())
    answered, tasks = asyncio.Event(), set[asyncio.Task[None]]()

    async def sample(draw: Draw) -> None:
        worker = workers[draw.number % NUM_WORKERS]
        names = [f"{draw.position}#0/{index}/answer" for index in range(GROUP_SIZE)]
        await asyncio.gather(*(worker.generate([request(name)]) for name in names))
        book.keep(draw)
        answered.set()

    async def publish(version: int) -> None:
        at_once = [workers] if way != "in turn" else [[worker] for worker in workers]
        for some in at_once:
            await asyncio.gather(*(worker.load(version) for worker in some))

    loop = asyncio.get_running_loop()
    begin = loop.time()
    for step in range(NUM_STEPS):
        tasks |= {asyncio.create_task(sample(draw)) for draw in book.open()}
        while not book.is_complete:
            answered.clear()
            await answered.wait()
        book.take()
        await asyncio.sleep(update_s)
        await publish(step + 1)
    return (loop.time() - begin) / NUM_STEPS


def request(name: str) -> TextRequest:
    """Ask for an answer."""
    return TextRequest(
        request_id=name,
        tokens=(),  # type: ignore[arg-type]  # nobody looks
        pictures=(),
        max_tokens=8,
        stop_ids=(),
        sampling=TextSampling(temperature=1.0),
        seed=0,
    )


def seconds_a_step(**case: object) -> float:
    """Simulate on a clock that jumps."""
    selector = JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(simulate(**case))  # type: ignore[arg-type]
    finally:
        loop.close()


def line(rows: int, lengths: str, rollouts_s: float, update_s: float, ahead: int) -> str:
    """Return a line of the table."""
    case = {"rows": rows, "lengths": lengths, "update_s": update_s, "ahead": ahead}
    cells = [seconds_a_step(**case, way=way) for way in WAYS]
    shown = " | ".join(f"{took:.2f} ({max(rollouts_s, update_s) / took:.0%})" for took in cells)
    return f"| {rows} | {lengths} | {rollouts_s:.2f} | {update_s:.2f} | {ahead} | {shown} |"


def main() -> None:
    """Simulate and print the table."""
    print(f"| rows | answers | rollouts alone, s | update alone, s | k | {' | '.join(WAYS)} |")
    print(f"|---|---|---|---|---|{'---|' * len(WAYS)}")
    for rows, lengths in ((16, "equal"), (16, "lognormal"), (4, "lognormal")):
        alone = seconds_a_step(rows=rows, ahead=0, update_s=0.0, lengths=lengths, way="between")
        for share, ahead in ((1.0, 0), (1.0, 1), (0.5, 1), (1.5, 1), (1.0, 2)):
            print(line(rows, lengths, alone, share * alone, ahead), flush=True)


if __name__ == "__main__":
    main()
