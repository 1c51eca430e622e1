"""Keep something on screen: poll it again and again, through outages, until somebody ends it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runstream.cli.support.output import console, emit_json, printable, spaced
from runstream.codec.json_facts import iso_time
from runstream.model.errors import StoreUnavailable

__all__ = ["Shown", "watch_with"]


class Shown(Protocol):
    """What a poll found."""

    def to_dict(self) -> dict[str, Any]:
        """What was found, for JSON."""

    def tables(self) -> Iterator[Table]:
        """What was found, for people."""


def watch_with(poll: Callable[[], Shown], every: float, *, as_json: bool) -> NoReturn:
    """Show what ``poll`` finds, every so many seconds; where stdout is no terminal, one after the other.

    What it cannot find for now (StoreUnavailable) is shown too, and it is polled again. It ends by a signal
    (Ctrl-C raises KeyboardInterrupt), by a reader of stdout who went away (BrokenPipeError), and by whatever else
    ``poll`` raises.
    """
    if sys.stdout.isatty() and not as_json:
        _on_screen(poll, every)
    while True:
        now = iso_time(time.time())
        try:
            found = poll()
        except StoreUnavailable as error:
            _print_outage(now, error.reason, as_json=as_json)
        else:
            _print(now, found, as_json=as_json)
        time.sleep(every)


def _print(now: str, found: Shown, *, as_json: bool) -> None:
    if as_json:
        emit_json({"time": now, **found.to_dict()}, on_one_line=True)
        return
    console(sys.stdout).print(Group(Text(now), *spaced(found.tables()), Text()))
    sys.stdout.flush()


def _print_outage(now: str, error: str, *, as_json: bool) -> None:
    if as_json:
        emit_json({"time": now, "error": error}, on_one_line=True)
        return
    sys.stdout.write(f"{now} {printable(error)}\n\n")
    sys.stdout.flush()


def _on_screen(poll: Callable[[], Shown], every: float) -> NoReturn:
    seen: list[Table | Text] = []
    last_seen = ""
    with _leaving_at_sigterm(), Live(Text("asks"), console=console(sys.stdout), auto_refresh=False) as live:
        while True:
            now = iso_time(time.time())
            try:
                seen = list(spaced(poll().tables()))
                head = Text(f"{now}, every {every:g} s; Ctrl-C ends it")
                last_seen = now
            except StoreUnavailable as error:
                since = f"; below, how it stood at {last_seen}" if seen else ""
                head = Text(f"{now} {printable(error.reason)}{since}", style="bold red")
            live.update(Group(head, Text(), *seen), refresh=True)
            time.sleep(every)


@contextmanager
def _leaving_at_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind, so that the terminal gets its cursor back."""
    former = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
