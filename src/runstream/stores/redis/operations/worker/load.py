"""Load runs from Redis, to archive, check or repair them: where they stand, and their entries and snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.pages import PAGE_BYTES
from runstream.codec.record import seq_of_record
from runstream.codec.snapshot_fields import read_saved
from runstream.codec.stored import STORED_PACKER
from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import EncodingError
from runstream.model.results import Cursor
from runstream.model.run_head import Origins, written_as
from runstream.model.tags import TagSet
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys, RunKeys
from runstream.stores.redis.operations.absent import check_absent
from runstream.stores.redis.operations.worker.hot_run import HotRun, run_of
from runstream.stores.redis.page_size import PageSize
from runstream.stores.redis.replies import (
    parse_cursor,
    parse_map,
    parse_offset,
    parse_records,
    parse_start,
    parse_tags,
)
from runstream.stores.redis.scripts.calls import load_call

__all__ = [
    "LoadRequest",
    "LoadedEntries",
    "first_hot",
    "load_due",
    "load_entries",
    "load_peaks",
    "load_runs",
]

_PAGE = 1000
_FIRST_SNAPSHOTS = 4  # then at most twice as many each time: how large they are is not known


def load_runs(keys: Keys, run_ids: Sequence[str]) -> Operation[list[HotRun | None]]:
    """Load where these runs stand; None for one that is not there.

    Raises:
        CorruptRecordError: What is noted of one of them does not read.
    """
    return _load(keys, run_ids, lambda run: (b"HGETALL", run.meta))


def load_due(keys: Keys, run_ids: Sequence[str]) -> Operation[list[HotRun | None]]:
    """As ``load_runs``, to archive them: of a run of many lanes, only what that needs."""
    return _load(keys, run_ids, load_call)


def _load(
    keys: Keys, run_ids: Sequence[str], query: Callable[[RunKeys], Command]
) -> Operation[list[HotRun | None]]:
    of_runs = [keys.run(run_id) for run_id in run_ids]
    replies = yield Exchange([query(run) for run in of_runs])
    found = []
    for run, reply in zip(of_runs, replies, strict=True):
        with parsing(run):
            found.append(run_of(run.run_id, parse_map(reply), is_partial=query is load_call))
    if None in found:
        yield from check_absent([run for run, known in zip(of_runs, found, strict=True) if known is None])
    return found


def first_hot(keys: Keys, run_id: str) -> Operation[int | None]:
    """The offset of the first entry that Redis has of a run; None where it has none."""
    (entries,) = yield Exchange([(b"XRANGE", keys.run(run_id).events, "-", "+", b"COUNT", 1)])
    return parse_cursor(entries[0][0]).offset if entries else None


class LoadRequest(NamedTuple):
    """What to load of a run: the entries with ``first <= offset <= last``, and the snapshots of these lanes.

    ``largest``: no record of those entries has more bytes; None: that is not known. ``tags``: load its tags too.
    ``origins``: the runs as which its first records were made.
    """

    run_id: str
    first: int
    last: int
    lanes: Sequence[str | None] = ()
    largest: int | None = None
    tags: bool = False
    origins: Origins = ()


class LoadedEntries(NamedTuple):
    """Entries and snapshots of a run, as Redis held them.

    Attributes:
        ids: The entries' ids, in order.
        records: Their wire records.
        snapshots: The snapshots that read.
        broken: The lanes whose snapshots do not read, with why.
        creation: Which run of that name it is after all that was read. If it is another one, or None, the run was
            deleted meanwhile, and what was read may be of another run.
        status: The run's status after all that was read: a snapshot that is read may have changed it.
        last: The offset of the run's last event at that moment.
        upto: It was read up to here: to the request's last offset, or, where that is too much at once, not as far;
            then without snapshots.
        tags: The run's tags, if they were asked for; they are read with the last of the entries.
    """

    # bytes alone: a pair for each would be a thousand objects for Python's collector to look through
    ids: list[bytes]
    records: list[bytes]
    snapshots: list[ArchiveSnapshot]
    broken: dict[str | None, str]
    creation: int | None
    status: str
    last: int
    upto: int
    tags: TagSet | None = None

    @property
    def offsets_and_chains(self) -> tuple[list[int], list[int]]:
        """The entries' offsets, and their chains."""
        numbers = list(map(int, b"-".join(self.ids).split(b"-"))) if self.ids else []
        return numbers[::2], numbers[1::2]

    @property
    def entries(self) -> list[tuple[Cursor, bytes]]:
        """The entries' cursors and records, in order."""
        return list(zip(map(parse_cursor, self.ids), self.records, strict=True))


class _Reading:
    """What is being read for one request.

    Attributes:
        request: The request, of what is still to be read.
        found: What was read.
        lanes: The lanes whose snapshots are asked for with the next page of entries, if that is the last one.
        has_entries: Whether all entries were read.
    """

    def __init__(self, keys: Keys, request: LoadRequest) -> None:
        self.request = request
        self.found: LoadedEntries | None = None
        self.lanes: Sequence[str | None] = ()
        self.has_entries = False
        self._run = keys.run(request.run_id)
        self._size = PageSize(_PAGE, request.largest)

    @property
    def is_done(self) -> bool:
        """Whether all that there is was read."""
        return self.has_entries and not self.request.lanes and not self.request.tags

    @property
    def most_bytes(self) -> int:
        """How much the next page of entries may have."""
        return self._size.bytes_of(self._wanted)

    def choose_lanes(self, room: int) -> int:
        """Choose the lanes for the next page, ``room`` at most. Returns how many."""
        self.lanes = self.request.lanes[:room] if self._size.count >= self._wanted else ()
        return len(self.lanes)

    def halve(self) -> None:
        """Ask for half as much."""
        if self._size.count >= self._wanted and len(self.lanes) > 1:
            self.lanes = self.lanes[: len(self.lanes) // 2]
        elif self._wanted > 0:
            self._size.halve()
            self.lanes = ()

    def commands(self) -> list[Command]:
        """Ask for the next page, for the snapshots, for the tags, and then for the run's start and status."""
        first, last = str(self.request.first), str(self.request.last)
        commands: list[Command] = [(b"XRANGE", self._run.events, first, last, b"COUNT", self._size.count)]
        commands += [(b"HGETALL", self._run.snapshot(lane_id)) for lane_id in self.lanes]
        if self._takes_tags:
            commands.append((b"HGETALL", self._run.tags))
        commands.append((b"HMGET", self._run.meta, b"start", b"status", b"last", b"tags"))
        return commands

    def take(self, replies: Iterator[Any], saved: list[int]) -> int:
        """Take the replies to the commands, and add the sizes of snapshots. Returns the size of the records."""
        request, entries = self.request, _taken(next(replies))
        found = self.found or LoadedEntries([], [], [], {}, None, "", 0, request.first - 1)
        records = parse_records(entries)
        found.ids.extend(entry_id for entry_id, _ in entries)
        found.records.extend(records)
        saved += [_add_snapshot(found, lane_id, next(replies)) for lane_id in self.lanes]
        takes_tags, of_tags = self._takes_tags, next(replies) if self._takes_tags else ()
        start, status, last, version = _taken(next(replies))
        self.has_entries = self._size.count >= self._wanted or len(entries) < self._size.count
        upto = request.last if self.has_entries else parse_offset(entries[-1][0])
        with parsing(self._run):
            self.found = found._replace(
                creation=None if start is None else parse_start(start).creation,
                status=(status or b"").decode(),
                last=0 if last is None else parse_offset(last),
                upto=upto,
            )
        if takes_tags:
            with parsing(self._run, self._run.tags):
                self.found = self.found._replace(tags=parse_tags(version, _taken(of_tags)))
        is_left = request.tags and not takes_tags
        self.request = request._replace(first=upto + 1, lanes=request.lanes[len(self.lanes) :], tags=is_left)
        self._size.adapt(list(map(len, records)))
        return sum(map(len, records))

    @property
    def _takes_tags(self) -> bool:
        """Whether the tags are asked for with the next page of entries: if that is the last one."""
        return self.request.tags and self._size.count >= self._wanted

    @property
    def _wanted(self) -> int:
        """How many entries are still to be read at most."""
        return max(0, self.request.last - self.request.first + 1)


def _load_page(left: Sequence[_Reading], snapshot_size: PageSize) -> Operation[int]:
    """Load the next pages of the first of these, as many as are one page together. Returns how much came."""
    together: list[_Reading] = []
    room, lanes = PAGE_BYTES, snapshot_size.count
    for reading in left:
        room -= reading.most_bytes
        if together and (room < 0 or lanes == 0):
            break
        lanes -= reading.choose_lanes(lanes)
        together.append(reading)
    replies = iter((yield _exchange_for(together, snapshot_size)))
    saved: list[int] = []
    size = sum([reading.take(replies, saved) for reading in together])
    snapshot_size.adapt(saved)
    return size + sum(saved)


def _exchange_for(together: list[_Reading], snapshot_size: PageSize) -> Exchange:
    """Ask for the next page of each; after a failure, for half of it: of fewer of them, or less of one."""

    def smaller() -> Exchange:
        snapshot_size.halve()
        if len(together) > 1:
            del together[len(together) // 2 :]
        else:
            together[0].halve()
        return _exchange_for(together, snapshot_size)

    commands = [command for reading in together for command in reading.commands()]
    # a snapshot of another type is one that does not read; else nothing may be refused
    return Exchange(commands, tolerant=True, smaller=smaller, is_long=True)


def load_entries(keys: Keys, requests: Sequence[LoadRequest]) -> Operation[list[LoadedEntries]]:
    """Load entries and snapshots of many runs, as far as the entries are less than two pages, or a single record.

    Returns:
        What was loaded for the first of the requests, at least for one; the others are to be made again. The
        last of them may have been loaded in part: what came has ``upto``.
    """
    readings = [_Reading(keys, request) for request in requests]
    snapshot_size = PageSize(_PAGE, first=_FIRST_SNAPSHOTS)
    left, room = readings, PAGE_BYTES
    while left:
        room -= yield from _load_page(left, snapshot_size)
        # of one that has all of its entries, the snapshots are loaded too
        left = [reading for reading in left if not reading.is_done and (room > 0 or reading.has_entries)]
    return [reading.found for reading in readings if reading.found is not None]


def load_peaks(keys: Keys, requests: Sequence[LoadRequest]) -> Operation[list[int | None]]:
    """The highest ``seq`` of entries that are in Redis, 0 at the least; None where some of them have left it."""
    peaks: list[int | None] = [0] * len(requests)
    left = dict(enumerate(requests))
    while left:
        loaded = yield from load_entries(keys, list(left.values()))
        for (index, request), found in zip(list(left.items()), loaded, strict=False):
            peak = peaks[index]
            if peak is None or found.offsets_and_chains[0] != list(range(request.first, found.upto + 1)):
                peaks[index] = None
            else:
                made = partial(written_as, request.run_id, request.origins)
                names = map(made, found.offsets_and_chains[0])
                peaks[index] = max(peak, *map(seq_of_record, names, found.records), 0)
            left[index] = request._replace(first=found.upto + 1)
            if peaks[index] is None or found.upto >= request.last:
                del left[index]
    return peaks


def _taken(reply: Any) -> Any:
    """A reply that is no refusal. Raises the refusal's error."""
    if isinstance(reply, Refusal):
        raise reply.error
    return reply


def _add_snapshot(loaded: LoadedEntries, lane_id: str | None, saved: Any) -> int:
    """Take a snapshot, or why it does not read. Returns its size."""
    if isinstance(saved, Refusal):
        loaded.broken[lane_id] = str(saved.error)
        return 0
    fields = parse_map(saved)
    try:
        offset, revision, token, state, _ = read_saved(fields)
        text = dump_json(state)
        if STORED_PACKER.pack(load_json(text)) != STORED_PACKER.pack(state):
            raise ValueError("as JSON, it would not give its values again")
        loaded.snapshots.append(ArchiveSnapshot(lane_id, offset, revision, token, text))
    except (EncodingError, ValueError) as error:  # damaged, or nested beyond JSON's depth
        loaded.broken[lane_id] = str(error)
    return sum(map(len, fields.values()))
