"""Show the progress of commands that take a while: a bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runstream.cli.support.output import console, printable

__all__ = ["showing_progress"]


@contextmanager
def showing_progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show, on stderr if that is a terminal, how much of ``total`` (None: nobody knows) is done.

    Gives a function to call with the number that is done more.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task(printable(what), total=total)
        yield lambda count: progress.advance(task, count)
