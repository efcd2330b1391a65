"""Console: the terminal or log, and what it shows of what takes long: bars and spinners, or a line now and then.

What is printed is plain text: square brackets and colons of users' names and messages are theirs, never markup.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rl.spans import span

CONSOLE = Console(highlight=False, markup=False, emoji=False)
"""The terminal, shared by everything that prints."""
LINE_S = 10.0
"""Seconds between two lines about what takes long, in a log that shows no bars."""

Item = TypeVar("Item")


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Show a spinner, then say how long it took."""
    begin = time.perf_counter()

    def so_far() -> str:
        return f"{what}: {time.perf_counter() - begin:.0f} s"

    with CONSOLE.status(Text(what)), span(what), _told(lambda: f"{so_far()} so far"):
        yield
    CONSOLE.print(so_far(), style="dim")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; call it with how many are done, and with what is done meanwhile where that says too little."""

    progress: Progress
    task: TaskID
    what: str

    def __call__(self, done: int, note: str = "") -> None:
        """Move the bar."""
        what = f"{self.what} ({note})" if note else self.what
        self.progress.update(self.task, completed=done, description=what)


class Bars:
    """Bars of several things that are under way at once; made by :func:`bars`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def add(self, what: str, total: int) -> Bar:
        """Show one more bar, of ``total`` things."""
        return Bar(self._progress, self._progress.add_task(what, total=total), what)

    def under_way(self) -> dict[str, str]:
        """Say how far each is that has not ended: ``120/800, 1 min 20 s left``."""
        return {task.description: _how_far(task) for task in self._progress.tasks if not task.finished}


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars while the block runs."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=CONSOLE) as progress:
        shown = Bars(progress)
        with _told(lambda: "; ".join(f"{what}: {how_far}" for what, how_far in shown.under_way().items())):
            yield shown


@contextmanager
def bar(what: str, total: int) -> Iterator[Bar]:
    """Show a bar of ``total`` things while the block runs."""
    with span(what, num=total), bars() as shown:
        yield shown.add(what, total)


def tracked(what: str, items: Iterable[Item], total: int, *, least: int = 0) -> Iterator[Item]:
    """Yield items and show a bar of them where there are at least so many."""
    if total < least:
        yield from items
        return
    with bar(what, total) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)


@contextmanager
def _told(line: Callable[[], str]) -> Iterator[None]:
    """Print a line every ``LINE_S`` while the block runs, where nobody sees a bar move."""
    if CONSOLE.is_terminal:
        yield
        return
    end = threading.Event()

    def tell() -> None:
        while not end.wait(LINE_S):
            if said := line():
                CONSOLE.print(said, soft_wrap=True)

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _how_far(task: Task) -> str:
    remaining = task.time_remaining
    left = "" if remaining is None or not task.completed else f", {duration(remaining)} left"
    return f"{task.completed:.0f}/{task.total or 0:.0f}{left}"


def make_table(title: str, *columns: str) -> Table:
    """Make a table whose cells are folded where they are long; without columns, one of keys and values."""
    table = Table(title=title, title_justify="left", show_header=bool(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def duration(seconds: float) -> str:
    """Write a time for a person; a negative one, of clocks that differ, is none."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
