"""Console: the terminal, and what it shows while something takes long (a bar or a spinner, then one line)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rl.spans import span

CONSOLE = Console(highlight=False)
"""The terminal, shared by everything that prints."""


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Show a spinner, then say how long it took."""
    begin = time.perf_counter()
    with CONSOLE.status(what), span(what):
        yield
    CONSOLE.print(f"[dim]{what}: {time.perf_counter() - begin:.0f} s[/dim]")


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar; it yields a function that is told how many of ``total`` are done."""
    columns = (
        TextColumn("[dim]{task.description}[/dim]"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with span(what, num=total), Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


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
