"""Load runs from Redis, to archive, check or repair them: where they stand, and their entries and snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.record import seq_of_record
from runstream.codec.snapshot_fields import read_saved
from runstream.codec.stored import STORED_PACKER
from runstream.model.archive_records import ArchiveSnapshot, RunHeader
from runstream.model.errors import EncodingError
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead, SnapshotHead
from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.absent import check_absent
from runstream.stores.redis.page_size import PageSize
from runstream.stores.redis.replies import (
    noted_cursor,
    noted_time,
    parse_cursor,
    parse_map,
    parse_offset,
    parse_parent,
    parse_peak,
    parse_records,
    parse_retired,
)

__all__ = [
    "HotRun",
    "LoadRequest",
    "LoadedEntries",
    "PeakRequest",
    "first_hot",
    "load_entries",
    "load_peaks",
    "load_runs",
]

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class HotRun:
    """A run as Redis has it: its head, and the facts that only Redis has.

    Attributes:
        run_id: The run's id.
        head: Where it stands.
        proven_tokens: The tokens, by lane, of the snapshots that were proven to be archived at the last settling.
        is_tombstone: It was retired, and nothing has come after that.
        since: The first offset of each lane that no snapshot of it covers.
        noted_to: The offset up to which the highest ``seq`` of what has left Redis is noted.
    """

    run_id: str
    head: RunHead
    proven_tokens: Mapping[str | None, str] = field(default_factory=dict)
    is_tombstone: bool = False
    since: Mapping[str, int] = field(default_factory=dict)
    noted_to: int = 0

    @property
    def header(self) -> RunHeader:
        """The header that an archive stores for it."""
        head = self.head
        return RunHeader(
            self.run_id, head.start, head.session_id, head.status, head.created_at, head.updated_at, head.parent
        )


def load_runs(keys: Keys, run_ids: Sequence[str]) -> Operation[list[HotRun | None]]:
    """Load where these runs stand; None for one that is not there.

    Raises:
        CorruptRecordError: What is noted of one of them does not read.
    """
    of_runs = [keys.run(run_id) for run_id in run_ids]
    replies = yield Exchange([(b"HGETALL", run.meta) for run in of_runs])
    found = []
    for run, reply in zip(of_runs, replies, strict=True):
        with parsing(run):
            found.append(_run_of(run.run_id, parse_map(reply)))
    if None in found:
        yield from check_absent([run for run, known in zip(of_runs, found, strict=True) if known is None])
    return found


def _run_of(run_id: str, meta: dict[bytes, bytes]) -> HotRun | None:
    if b"start" not in meta and b"last" not in meta:
        return None
    start, last = noted_cursor(meta[b"start"]), noted_cursor(meta[b"last"])
    retired = parse_retired(meta.get(b"retired"))
    # of a tombstone all is archived; what goes on after one has a mark
    unmarked = start if retired is None else last
    snapshots: dict[str | None, SnapshotHead] = {}
    proven: dict[str | None, str] = {}
    since: dict[str, int] = {}
    for name, value in meta.items():
        kind, colon, lane = name.partition(b":")
        lane_id = lane.decode() if colon else None
        if kind == b"snapshot":
            offset, revision, token = value.split()
            snapshots[lane_id] = SnapshotHead(lane_id, int(offset), int(revision), token.decode())
        elif kind == b"proven":
            proven[lane_id] = value.decode()
        elif kind == b"since" and lane_id is not None:
            since[lane_id] = int(value)
    mark = noted_cursor(meta[b"mark"]) if b"mark" in meta else unmarked
    if not start.offset <= mark.offset <= last.offset:
        raise ValueError(f"the archived mark {mark} does not lie between {start} and {last}")
    head = RunHead(
        start,
        last,
        mark,
        meta[b"status"].decode(),
        meta.get(b"session", b"").decode(),
        noted_time(meta[b"created"]),
        noted_time(meta[b"updated"]),
        parse_parent(meta.get(b"parent")),
        snapshots,
    )
    is_tombstone = retired is not None and retired.offset is None
    peak = parse_peak(meta)
    return HotRun(run_id, head, proven, is_tombstone, since, start.offset if peak is None else peak.offset)


def first_hot(keys: Keys, run_id: str) -> Operation[int | None]:
    """The offset of the first entry that Redis has of a run; None where it has none."""
    (entries,) = yield Exchange([(b"XRANGE", keys.run(run_id).events, "-", "+", b"COUNT", 1)])
    return parse_cursor(entries[0][0]).offset if entries else None


class LoadRequest(NamedTuple):
    """What to load of a run: the entries with ``first <= offset <= last``, and the snapshots of these lanes."""

    run_id: str
    first: int
    last: int
    lanes: Sequence[str | None] = ()


class LoadedEntries(NamedTuple):
    """Entries and snapshots of a run, as Redis held them.

    Attributes:
        ids: The entries' ids, in order.
        records: Their wire records.
        snapshots: The snapshots that read.
        broken: The lanes whose snapshots do not read, with why.
        start: The run's start after all that was read. If it is another one, or None, the run was deleted
            meanwhile, and what was read may be of another run.
    """

    # bytes alone: a pair for each would be a thousand objects for Python's collector to look through
    ids: list[bytes]
    records: list[bytes]
    snapshots: list[ArchiveSnapshot]
    broken: dict[str | None, str]
    start: Cursor | None

    @property
    def offsets_and_chains(self) -> tuple[list[int], list[int]]:
        """The entries' offsets, and their chains."""
        numbers = list(map(int, b"-".join(self.ids).split(b"-"))) if self.ids else []
        return numbers[::2], numbers[1::2]

    @property
    def entries(self) -> list[tuple[Cursor, bytes]]:
        """The entries' cursors and records, in order."""
        return list(zip(map(parse_cursor, self.ids), self.records, strict=True))


class PeakRequest(NamedTuple):
    """Of which entries the highest ``seq`` is asked: those of a run after one offset, up to another."""

    run_id: str
    after: int
    upto: int


def load_peaks(keys: Keys, requests: Sequence[PeakRequest]) -> Operation[list[int | None]]:
    """The highest ``seq`` of entries that are in Redis, 0 at the least; None where some of them have left it."""
    found: list[int | None] = [0] * len(requests)
    pages = PageSize(_PAGE)
    left = dict(enumerate(requests))
    while left:
        replies = yield Exchange(
            [
                (b"XRANGE", keys.run(run_id).events, str(after + 1), str(upto), b"COUNT", pages.count)
                for run_id, after, upto in left.values()
            ]
        )
        pages.adapt(record for entries in replies for record in parse_records(entries))
        for (index, request), entries in zip(list(left.items()), replies, strict=True):
            after = request.after + len(entries)
            if not entries or parse_offset(entries[-1][0]) != after:
                found[index] = None
            else:
                seqs = map(partial(seq_of_record, request.run_id), parse_records(entries))
                found[index] = max(found[index] or 0, *seqs)
            left[index] = request._replace(after=after)
            if found[index] is None or after >= request.upto:
                del left[index]
    return found


def load_entries(keys: Keys, requests: Sequence[LoadRequest]) -> Operation[list[LoadedEntries]]:
    """Load entries and snapshots of many runs in one round trip."""
    commands: list[Command] = []
    for run_id, first, last, lanes in requests:
        run = keys.run(run_id)
        commands.append((b"XRANGE", run.events, str(first), str(last)))
        commands += [(b"HGETALL", run.snapshot(lane_id)) for lane_id in lanes]
        commands.append((b"HGET", run.meta, b"start"))
    # a snapshot of another type is one that does not read; else nothing may be refused
    replies = iter((yield Exchange(commands, tolerant=True)))
    found = []
    for request in requests:
        entries = _taken(next(replies))
        loaded = LoadedEntries([entry_id for entry_id, _ in entries], parse_records(entries), [], {}, None)
        for lane_id in request.lanes:
            _add_snapshot(loaded, lane_id, next(replies))
        start = _taken(next(replies))
        with parsing(keys.run(request.run_id)):
            found.append(loaded._replace(start=None if start is None else noted_cursor(start)))
    return found


def _taken(reply: Any) -> Any:
    """A reply that is no refusal. Raises the refusal's error."""
    if isinstance(reply, Refusal):
        raise reply.error
    return reply


def _add_snapshot(loaded: LoadedEntries, lane_id: str | None, saved: Any) -> None:
    if isinstance(saved, Refusal):
        loaded.broken[lane_id] = str(saved.error)
        return
    try:
        offset, revision, token, state, _ = read_saved(parse_map(saved))
        text = dump_json(state)
        if STORED_PACKER.pack(load_json(text)) != STORED_PACKER.pack(state):
            raise ValueError("as JSON, it would not give its values again")
        loaded.snapshots.append(ArchiveSnapshot(lane_id, offset, revision, token, text))
    except (EncodingError, ValueError) as error:  # damaged, or nested beyond JSON's depth
        loaded.broken[lane_id] = str(error)
