"""``runstream tail``: follow a run live, one line per event, through outages."""

from __future__ import annotations

import errno
import math
import os
import select
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Annotated, Any

import typer
from rich.text import Text

from runstream.cli.support.ages import age_seconds
from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.options import (
    InLocalTime,
    OfArchive,
    OfUpcasts,
    Url,
    Wide,
    open_to_read,
)
from runstream.cli.support.output import clock, console, day, emit_json, printable, say
from runstream.cli.support.run_names import RunName, run_named
from runstream.cli.support.server_start import START_SECONDS, StartTimeout, wait_for_server
from runstream.cli.support.text_deltas import Join, is_delta, joined
from runstream.cli.support.value_texts import cut, payload_text
from runstream.codec.json_facts import event_facts
from runstream.integrations.langgraph.readable import readable_payload
from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    EventRefused,
    EventsArchived,
    StoreUnavailable,
)
from runstream.model.events import Visibility
from runstream.model.results import Cursor, Recorded
from runstream.operations.arguments import FollowQuery, parse_position
from runstream.operations.filters import EventFilter
from runstream.stores.protocol import RunStore

__all__ = ["EPILOG", "lane_style", "tail"]

EPILOG = """Examples:

runstream tail run-42 --url redis://localhost

runstream tail run-42 --url redis://localhost --archive sqlite:archive.db --since 10m --kind tool.error

runstream tail run-42 --url redis://localhost --lines 0 --json | jq .payload"""

_LINES = 10
_WIDEST_LANE = 24
_CHECK_SECONDS = 1.0  # how often to check whether somebody still reads what is printed
_LONGEST_PAUSE_SECONDS = 2.0

# rich's names; bright ones besides, and none that a terminal's background may have
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_STYLES = (*_COLOURS, *(f"bright_{colour}" for colour in _COLOURS))


def tail(
    run: RunName,
    url: Url = None,
    archive: OfArchive = None,
    upcasts: OfUpcasts = None,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines",
            "-n",
            min=0,
            help="Begin with the last so many events; 0: only new ones.",
            show_default=f"{_LINES}",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Begin after this offset or cursor, or (30s, 10m, 2h, 1d) with what is no older than that.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only events of this kind; may be repeated.")] = None,
    lane: Annotated[str | None, typer.Option(help="Only events of this lane.")] = None,
    visibility: Annotated[Visibility | None, typer.Option(help="Only what such a viewer may see.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a run that is not there yet: then RUN is all of its id.")
    ] = False,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="End, with code 1, after so many seconds without an event.", show_default=False
        ),
    ] = None,
    join: Join = False,
    local: InLocalTime = False,
    wide: Wide = False,
    start_timeout: StartTimeout = START_SECONDS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each event as one JSON object on a line.")
    ] = False,
) -> None:
    """Follow a run: one line per event, until the run has ended.

    A line has time (UTC, or with --local this machine's), offset, lane, seq, kind and payload; each lane has its
    colour. The date stands on a line of its own where it is another than before, or than today. While the server
    is away it waits, and then goes on where it was. What has left Redis is read from the archive, with --archive.
    --lines counts the events that are shown; with --since there is no such limit unless it is given too. With
    --join, text is shown when the lane goes on with something else, or falls silent.
    """
    wanted = EventFilter(FollowQuery(lane_id=lane, kinds=kind or None, visibility=visibility))
    wait_for_server(url, start_timeout)
    with open_to_read(url, archive, upcasts, follows=True) as store:
        if not wait:
            run = run_named(store, run, ", and --wait waits for it")
        after = _begin(store, run, wanted, since, lines)
        following = _Following(store, run, after, wanted, math.inf if idle_timeout is None else idle_timeout)
        show = _show_json if as_json else _printer(local=local, wide=wide, join=join)
        for item in joined(following.events()) if join else filter(None, following.events()):
            show(item)
        if following.is_idle:
            say(f"no event came in {idle_timeout:g} seconds, and run {run!r} has not ended")
            raise typer.Exit(ExitCode.DOES_NOT_HOLD)


# -- where to begin ------------------------------------------------------------------------------------


def _begin(
    store: RunStore[Any, Any], run_id: str, wanted: EventFilter, since: str | None, lines: int | None
) -> int | str:
    """The position after which to begin: an offset, or a cursor."""
    after: int | str = 0
    if since is not None:
        after = _since(store, run_id, since)
        if lines is None:
            return after
    left = _LINES if lines is None else lines

    def is_before(item: Recorded[Any]) -> bool:
        nonlocal left
        if left == 0:
            return True
        left -= wanted(item.event)
        return False

    return max(after, _back_to(store, run_id, is_before), key=lambda each: parse_position(each)[0])


def _since(store: RunStore[Any, Any], run_id: str, since: str) -> int | str:
    age = age_seconds(since, "smhd")
    if age is not None:
        oldest = time.time() - age
        return _back_to(store, run_id, lambda item: item.event.ts < oldest)
    if since.isdecimal() and since.isascii():
        return int(since)
    if "-" in since:
        return str(Cursor.parse(since))
    raise ConfigurationError(
        f"--since {since!r:.80}: name an offset (120), a cursor (120-4711), or a time (30s, 10m, 2h, 1d)"
    )


def _back_to(store: RunStore[Any, Any], run_id: str, is_before: Callable[[Recorded[Any]], bool]) -> int | str:
    """The position of the last event of which that is true; if there is none, that before all that is there.

    A Redis store alone does not have all: that is said.
    """
    events: Any = store.read(run_id, reverse=True, on_corrupt="skip")
    try:
        with closing(events):
            for item in events:
                if is_before(item):
                    cursor: str = item.cursor
                    return cursor
    except EventsArchived as moved:
        first = moved.first_hot - 1
        say(f"offsets up to {first} of this run are in the archive; name it with --archive to see them too")
        return first
    return 0


# -- following -----------------------------------------------------------------------------------------


class _Following:
    """Follows a run from a position on, through outages, as long as somebody reads its events.

    It follows again and again from the last position on: so nothing is missed or repeated, whatever happens in
    between.

    Args:
        store: The store.
        run_id: The run.
        after: The offset or cursor after which to begin.
        wanted: Which events to give.
        idle_timeout: After how many seconds without an event to end.

    Attributes:
        is_idle: Whether it ended because of the timeout.
    """

    def __init__(
        self, store: RunStore[Any, Any], run_id: str, after: int | str, wanted: EventFilter, idle_timeout: float
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._after = after
        self._wanted = wanted
        self._idle_timeout = idle_timeout
        self._given_at = time.monotonic()
        self._checked_at = 0.0
        self.is_idle = False

    def events(self) -> Iterator[Recorded[Any] | None]:
        """The events that are wanted, until the run has ended; None where none has come for a second.

        Raises AcknowledgedWritesLost and HistoryDiverged, EventsArchived where what comes next has left the
        store, and BrokenPipeError where nobody reads stdout any more.
        """
        while True:
            self.is_idle = time.monotonic() >= self._given_at + self._idle_timeout
            if self.is_idle:
                return
            try:
                yield from self._until_quiet()
            except TimeoutError:
                self._check_reader()
                yield None
            except StoreUnavailable as error:
                say(f"{error.reason}; waits until it answers again")
                self._wait()
                say(f"it answers again; goes on after {self._after}")
            except (CorruptRecordError, EventRefused) as error:
                say(f"offset {error.offset} does not read: {error}")
                self._after = error.offset
            else:
                return

    def _until_quiet(self) -> Iterator[Recorded[Any]]:
        left = self._given_at + self._idle_timeout - time.monotonic()
        events: Any = self._store.follow(
            self._run_id, self._after, idle_timeout=max(0.001, min(left, _CHECK_SECONDS))
        )
        with closing(events):
            for item in events:
                self._after = item.cursor
                if self._wanted(item.event):
                    yield item
                    self._given_at = time.monotonic()
                elif time.monotonic() > min(
                    self._checked_at + _CHECK_SECONDS, self._given_at + self._idle_timeout
                ):
                    self._check_reader()
                    raise TimeoutError

    def _wait(self) -> None:
        """Wait until the store answers."""
        pause = 0.05
        while True:
            try:
                self._store.run_info(self._run_id)
            except StoreUnavailable:
                self._check_reader()
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._given_at = time.monotonic()
                return

    def _check_reader(self) -> None:
        """Raise BrokenPipeError if stdout is a pipe that nobody reads any more."""
        self._checked_at = time.monotonic()
        try:
            handle = sys.stdout.fileno()
        except (OSError, ValueError):  # it is no file, in a test
            return
        poll = select.poll()
        poll.register(handle, 0)
        if poll.poll(0):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


# -- showing -------------------------------------------------------------------------------------------


def _show_json(item: Recorded[Any]) -> None:
    emit_json(event_facts(item), on_one_line=True)


def _printer(*, local: bool, wide: bool, join: bool) -> Callable[[Recorded[Any]], None]:
    """Make what prints an event on a line: at a terminal in its lane's colour, cut at its edge unless wide."""
    at_terminal = sys.stdout.isatty()
    out = console(sys.stdout, wide=wide)
    width, today = 4, day(time.time(), local=local)

    def put(*parts: tuple[str, str], whole: bool = wide) -> None:
        if at_terminal:
            out.print(Text.assemble(*parts), no_wrap=not whole, overflow="fold" if whole else "ellipsis")
        else:  # at the speed at which a program reads
            sys.stdout.write("".join(text for text, _ in parts) + "\n")
            sys.stdout.flush()

    def show(item: Recorded[Any]) -> None:
        nonlocal width, today
        event = item.event
        if (date := day(event.ts, local=local)) not in ("", today):
            put((date, "dim"))
            today = date
        lane, kind = printable(str(event.lane_id)), printable(str(event.kind))
        width = max(width, min(len(lane), _WIDEST_LANE))
        text = payload_text(readable_payload(event.kind, event.payload), local=local)
        whole = wide or (join and is_delta(event))
        payload = printable(text if whole else cut(text))
        rest = f" {item.offset:>6} {lane:<{width}} {event.seq!s:>5} {kind:<14} {payload}"
        put((clock(event.ts, local=local), "dim"), (rest, lane_style(lane)), whole=whole)

    return show


def lane_style(lane: str) -> str:
    """The colour of a lane, the same every time."""
    return _STYLES[zlib.crc32(lane.encode()) % len(_STYLES)]
