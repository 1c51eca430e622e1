"""How far a long command is: a bar on a terminal, nothing of it in pipes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runstream.cli.output import console

__all__ = ["showing_progress"]


@contextmanager
def showing_progress(what: str, events: int) -> Iterator[Callable[[int], None]]:
    """Show how many of so many events are done; what this gives is told how many more are."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task(what, total=events)
        yield lambda count: progress.advance(task, count)
