"""``runstream show``: show one run, its snapshots and its events; now, or as it was at an offset."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table

from runstream.cli.runs import questions_of, tags_text
from runstream.cli.support.branches import branch_rows
from runstream.cli.support.exit_codes import NoSuchRun
from runstream.cli.support.options import AsJson, InLocalTime, OfArchive, OfUpcasts, Url, Wide, open_to_read
from runstream.cli.support.output import ago, clock, console, day, emit_json, make_table, print_table, say, spaced
from runstream.cli.support.run_names import RunName, run_named
from runstream.cli.support.text_deltas import Join, is_delta, joined
from runstream.cli.support.value_texts import cut, is_moment_name, payload_text, value_text
from runstream.codec.json_facts import event_facts, iso_time, run_facts
from runstream.integrations.langgraph.readable import (
    checkpoint_at,
    is_checkpoint,
    last_checkpoint,
    readable_payload,
)
from runstream.model.errors import ConfigurationError, CorruptRecordError, EventRefused, EventsArchived
from runstream.model.protocols import SnapshotHistory
from runstream.model.results import Fork, LaneInfo, Recorded, RunInfo, Snapshot
from runstream.stores.capabilities import part_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace

__all__ = ["EPILOG", "show"]

EPILOG = """Examples:

runstream show run-42 --url redis://localhost --archive sqlite:archive.db

runstream show run-42 --url sqlite:archive.db --lane planner --after 100 --limit 50

runstream show run-42 --url sqlite:archive.db --at 70

runstream show run-42 --url sqlite:archive.db --upcasts myagent.schema:upcasts"""

_ATTEMPTS = 10  # at reading on from what is hot while a worker trims

_Snapshots = Mapping[str | None, Snapshot[Any]]
"""The run's own snapshot (under None) and those of its lanes."""


@dataclass(slots=True)
class _Timeline:
    """Some events of a run, in order.

    Attributes:
        events: The events.
        archived_up_to: The last offset that was asked for and has left the store; 0 if none has.
        unreadable: The offsets of the events that do not read.
        next_after: The offset after which to go on; None if there is no more.
    """

    events: list[Recorded[Any]] = field(default_factory=list)
    archived_up_to: int = 0
    unreadable: list[int] = field(default_factory=list)
    next_after: int | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which events to show: of all lanes or one, after an offset, up to one (None: the end), at most so many."""

    lane: str | None
    after: int
    upto: int | None
    limit: int


class _Branch(NamedTuple):
    """Which runs a run comes from, the nearest first, and which were forked from it."""

    ancestors: list[Fork]
    forks: list[Fork]


def show(
    run: RunName,
    url: Url = None,
    archive: OfArchive = None,
    upcasts: OfUpcasts = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="Only events after this offset.", show_default="0")
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Show the run as it was at this offset: the nearest snapshot that covers no more, and the events"
            " from there.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many events.")] = 100,
    lane: Annotated[str | None, typer.Option(help="Only events and snapshot of this lane.")] = None,
    lanes: Annotated[
        bool,
        typer.Option("--lanes", help="Show the run's lanes instead: where each stands, whether it has ended."),
    ] = False,
    join: Join = False,
    local: InLocalTime = False,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Show a run: what is known of it, its events in order, and its state at the end; or with --at, how it was.

    A Redis store shows what is hot; which events have moved to the archive is said on stderr (with --json
    in "archived_up_to"). With --archive, or the archive beside an embedded server, they are read there. Former
    snapshots are in an archive only, which has those that were the latest when a drain worker read the run:
    without one, --at shows the events from the beginning. Of a fork, and of a run that was forked, the branch is
    drawn, as far as the store knows it. With --lanes only the run's lanes are shown; those that
    have left Redis are in the archive.
    """
    with open_to_read(url, archive, upcasts) as store:
        run = run_named(store, run)
        info = store.run_info(run)
        if info is None:  # it was deleted just now
            raise NoSuchRun(f"there is no run {run!r} in this store any more")
        if lanes:
            _show_lanes(store.lanes(run), wide=wide, as_json=as_json)
            return
        if at is not None and at > info.last_offset:
            raise ConfigurationError(
                f"--at {at}: run {run!r} ends at offset {info.last_offset}; name one that it has"
            )
        snapshots = _snapshots(store, run, lane, at, as_read=not as_json)
        if after is None:
            after = 0 if at is None else _begin(snapshots, lane)
        timeline = _timeline(store, run, _Wanted(lane, after, at, limit))
        branch = _Branch(store.ancestors(run), store.forks(run))
        is_hot = part_of(store, Namespace) is not None
    if timeline.archived_up_to:
        say(
            f"offsets up to {timeline.archived_up_to} of this run are in the archive; show them with its URL, or"
            " name it with --archive"
        )
    if timeline.unreadable:
        say(f"offsets without an event that reads: {', '.join(map(str, timeline.unreadable))}")
    if as_json:
        emit_json({**_facts(info, branch, snapshots, timeline, is_hot=is_hot), "at": at})
        return
    page = _Page(is_hot, join, local, wide)
    console(sys.stdout, wide=wide).print(*spaced(page.tables(info, branch, snapshots, timeline, at)), sep="\n")
    if timeline.next_after is not None:
        say(f"there are more events; go on with --after {timeline.next_after}")


def _snapshots(
    store: RunStore[Any, Any], run_id: str, lane: str | None, at: int | None, *, as_read: bool
) -> _Snapshots:
    """The run's own snapshot and those of its lanes, or of one lane: the latest, or those nearest to an offset.

    With ``as_read``, as people read them.
    """
    lanes: list[str | None] = [None]
    if lane is not None:
        lanes = [lane]
    elif isinstance(store, SnapshotHistory):
        lanes = store.snapshot_lanes(run_id)
    elif (namespace := part_of(store, Namespace)) is not None:
        lanes = namespace.snapshot_lanes(run_id)
    found = {}
    for lane_id in lanes:
        try:
            snapshot = _snapshot(store, run_id, lane_id, at)
        except (CorruptRecordError, EventRefused) as error:  # it affects no event and no other snapshot
            say(str(error))
        else:
            if snapshot is not None:
                found[lane_id] = _as_read(store, run_id, lane_id, snapshot, at) if as_read else snapshot
    return found


def _snapshot(store: RunStore[Any, Any], run_id: str, lane_id: str | None, at: int | None) -> Snapshot[Any] | None:
    if at is None:
        return store.load_snapshot(run_id, lane_id=lane_id)
    kept = store.snapshot_at(run_id, at, lane_id=lane_id) if isinstance(store, SnapshotHistory) else None
    known = kept or store.load_snapshot(run_id, lane_id=lane_id)
    if lane_id is not None and known is not None and is_checkpoint(known.state):
        with suppress(ConfigurationError, EventsArchived):  # what it was made of is erased, or has left Redis
            return checkpoint_at(store, run_id, lane_id, at) or kept
    return known if known is not None and known.offset <= at else None


def _as_read(
    store: RunStore[Any, Any], run_id: str, lane_id: str | None, snapshot: Snapshot[Any], at: int | None
) -> Snapshot[Any]:
    """A snapshot as people read it: of a checkpointer's, the channels, and what was asked since."""
    if not is_checkpoint(snapshot.state):
        return snapshot
    last = last_checkpoint(store, run_id, lane_id or "", at)
    return replace(snapshot, state=last.readable(snapshot.state))


def _begin(snapshots: _Snapshots, lane: str | None) -> int:
    """The offset at which the state starts: of the snapshot that was asked for, or else of every lane's."""
    own = snapshots.get(lane)
    if own is not None:
        return own.offset
    return min((snapshot.offset for snapshot in snapshots.values()), default=0)


def _timeline(store: RunStore[Any, Any], run_id: str, wanted: _Wanted) -> _Timeline:
    archived_up_to, after = 0, wanted.after
    for attempt in range(_ATTEMPTS):
        try:
            return _read(store, run_id, wanted, after, archived_up_to)
        except EventsArchived as error:
            if attempt == _ATTEMPTS - 1:
                raise
            after = archived_up_to = error.first_hot - 1
    raise AssertionError("unreachable: the last attempt returns or raises")


def _read(store: RunStore[Any, Any], run_id: str, wanted: _Wanted, after: int, archived_up_to: int) -> _Timeline:
    timeline = _Timeline(archived_up_to=archived_up_to)
    position = after
    before = None if wanted.upto is None else wanted.upto + 1
    for item in store.read(run_id, after, before=before, on_corrupt="raw"):
        if len(timeline.events) == wanted.limit:
            timeline.next_after = position
            break
        position = item.offset
        if isinstance(item.event, dict | bytes):
            timeline.unreadable.append(position)
        elif wanted.lane is None or item.event.lane_id == wanted.lane:
            timeline.events.append(item)
    return timeline


def _facts(
    info: RunInfo, branch: _Branch, snapshots: _Snapshots, timeline: _Timeline, *, is_hot: bool
) -> dict[str, Any]:
    return {
        "run": run_facts(info, is_hot=is_hot),
        "forks": [fork._asdict() for fork in branch.forks],
        "snapshots": [
            {
                "lane_id": lane,
                "offset": snapshot.offset,
                "revision": snapshot.revision,
                "state": snapshot.state,
            }
            for lane, snapshot in snapshots.items()
        ],
        "archived_up_to": timeline.archived_up_to,
        "unreadable": timeline.unreadable,
        "events": [event_facts(item) for item in timeline.events],
        "next_after": timeline.next_after,
    }


@dataclass(frozen=True, slots=True)
class _Page:
    """What of a run is shown to people, and how: see the options of the command."""

    is_hot: bool
    join: bool
    local: bool
    wide: bool

    def tables(
        self, info: RunInfo, branch: _Branch, snapshots: _Snapshots, timeline: _Timeline, at: int | None
    ) -> Iterator[Table]:
        """The run, its branch, its snapshots, its events, its states."""
        yield make_table(["what", "value"], self._facts(info, at))
        if branch.ancestors or branch.forks:
            drawn = list(branch_rows(info, branch.ancestors, branch.forks))
            yield make_table(["branch", "parts after offset"], drawn, names=("branch",))
        if snapshots:
            columns = ["snapshot of", "covers offset", "revision", "status", "step", "node"]
            yield make_table(columns, [_snapshot_row(lane, snapshot) for lane, snapshot in snapshots.items()])
        if timeline.events:
            columns = ["offset", f"time ({'local' if self.local else 'UTC'})", "lane", "kind", "payload"]
            rows = self._event_rows(timeline.events)
            yield make_table(columns, rows, names=("lane",), unfolded=(columns[1], "kind"))
        for lane, snapshot in snapshots.items():
            columns = [f"state of {_name(lane)}", f"as of offset {snapshot.offset}"]
            yield make_table(columns, self._state_rows(snapshot), unfolded=columns[:1])

    def _facts(self, info: RunInfo, at: int | None) -> Iterator[tuple[str, str]]:
        archived = f", archived up to {info.archived_offset}" if self.is_hot else ""
        yield "run", info.run_id
        if info.session_id:
            yield "session", info.session_id
        if info.tags:
            yield "tags", tags_text(info)
        yield "status", info.status
        yield "events", f"{info.last_offset}{archived}"
        for name, timestamp in (("created", info.created_at), ("updated", info.updated_at)):
            yield name, f"{iso_time(timestamp, local=self.local)} ({ago(timestamp)})"
        if info.waiting_for:
            yield "waits for", questions_of(info)
        if at is not None:
            yield "shown at", f"offset {at}"

    def _event_rows(self, events: Iterable[Recorded[Any]]) -> Iterator[tuple[object, ...]]:
        """An event in each row, and the date where it is another than before, or than today."""
        if self.join:
            events = sorted(joined(events), key=lambda item: item.offset)
        today = day(time.time(), local=self.local)
        for offset, _, event in events:
            if (date := day(event.ts, local=self.local)) not in ("", today):
                yield None, date, None, None, None
                today = date
            at, payload = clock(event.ts, local=self.local), self._payload(event)
            yield offset, at, event.lane_id, event.kind, payload

    def _payload(self, event: Any) -> str:
        text = payload_text(readable_payload(event.kind, event.payload), local=self.local)
        return text if self.wide or (self.join and is_delta(event)) else cut(text)

    def _state_rows(self, snapshot: Snapshot[Any]) -> Iterator[tuple[object, ...]]:
        """What the state holds, key by key, without what is empty."""
        for key, value in snapshot.state.items():
            if value not in ("", [], {}) and not (is_moment_name(key) and value == 0):
                text = value_text(value, key, local=self.local)
                yield key, text if self.wide else cut(text)


def _show_lanes(lanes: Sequence[LaneInfo], *, wide: bool, as_json: bool) -> None:
    if as_json:
        emit_json({"lanes": [asdict(lane) for lane in lanes]})
        return
    columns = ["lane", "last offset", "last seq", "covers offset", "ended", "lease"]
    rows = [
        (one.lane_id, one.last_offset, one.last_seq, one.snapshot_offset, "yes" if one.ended else None, one.lease)
        for one in lanes
    ]
    print_table(columns, rows, names=("lane", "lease"), wide=wide)


def _name(lane: str | None) -> str:
    return "the run" if lane is None else f"lane {lane}"


def _snapshot_row(lane: str | None, snapshot: Snapshot[Any]) -> tuple[object, ...]:
    facts = (snapshot.state.get(key) for key in ("status", "current_step", "current_node"))
    return (_name(lane), snapshot.offset, snapshot.revision, *facts)
