"""Console: the terminal, and what it shows while something takes long (a bar or a spinner, then one line)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
