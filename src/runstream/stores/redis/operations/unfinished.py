"""Finish an append that the server refused in its midst, as it does where a user lacks a right to a command.

A script is atomic, but not undone: the entries that it had added are in the stream, and the run's meta, which a
script writes last, does not note them. Nobody was told that they are there, and no reader gives them, but no entry
of a stream can be taken away so that another one takes its id. So they are taken into the history. Whoever sends
the same events again gets their cursors: they are there once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from runstream.codec.archive_entries import archive_entries, entry_fields
from runstream.codec.chain import former_chain, next_chain
from runstream.codec.record import ERASED, is_sound, record_crc
from runstream.codec.snapshot_fields import read_saved
from runstream.model.archive_records import ArchiveEntry
from runstream.model.erasures import has_offset
from runstream.model.errors import ConcurrencyConflict, CorruptRecordError
from runstream.model.results import Cursor
from runstream.model.run_head import Origins, written_as
from runstream.model.state import STATUSES, RunStatus, status_after
from runstream.operations.operation import Call, Command, Exchange, Operation
from runstream.stores.redis.append_batch import LaneSpan, snapshot_field
from runstream.stores.redis.damage import corrupt_key, parsing
from runstream.stores.redis.keys import Keys, RunKeys
from runstream.stores.redis.noted_erasures import NO_ERASURES, NotedErasures, parse_erasures
from runstream.stores.redis.page_size import PageSize, size_bound
from runstream.stores.redis.people_notes import PeopleNotes
from runstream.stores.redis.replies import (
    gone_field,
    noted_cursor,
    noted_size,
    noted_start,
    parse_cursor,
    parse_map,
    parse_origins,
    parse_records,
    parse_retired,
)
from runstream.stores.redis.scripts.calls import ADOPT
from runstream.stores.redis.scripts.script import script_call

__all__ = ["Adopted", "Beginning", "FindBeginning", "adopt", "snapshots_left"]

_PAGE = 1000
_SCAN_COUNT = 1000
_ATTEMPTS = 10  # at a run that goes on all the while
_AS_IT_IS = "surrogateescape"


class Adopted(NamedTuple):
    """What was taken into a run's history: the offset of its first entry, and the cursor of its last one."""

    first: int
    last: Cursor


@dataclass(slots=True)
class _Left:
    """The entries of a stream that meta does not note, read one after the other.

    Attributes:
        run: The run's keys.
        former: The cursor before the first of them.
        last: The cursor of the last one that was read.
        covered: Up to where the snapshot of each lane covers the history, where meta does not say.
        lanes: What they add to each lane, by offset.
        since: The offset of each lane's first one that no snapshot of it covers.
        keys: The cursors of those that have callers' keys.
        kinds: Offset and kind of those that may give the run a status.
        people: What they say between the run and people.
        session_id: The session that they name; "" for none.
        unread: The offset of the last one that does not read, or was erased: its lane is not known; 0 for none.
        largest: The size of the largest record of them.
        erasures: What was asked to be erased of the run, where meta is not there.
        base: The cursor before the first event that counts by that, where it is known.
        beginning: The fields of meta, where that is not there, as they were before the first of them.
        origins: The runs as which the first records were made, where they were copied from these.
    """

    run: RunKeys
    former: Cursor
    last: Cursor
    covered: Mapping[str | None, int]
    lanes: dict[str, LaneSpan] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    keys: dict[str, Cursor] = field(default_factory=dict)
    kinds: list[tuple[int, str]] = field(default_factory=list)
    people: PeopleNotes = field(default_factory=PeopleNotes)
    session_id: str = ""
    unread: int = 0
    largest: int = 0
    erasures: NotedErasures = NO_ERASURES
    base: Cursor | None = None
    beginning: Mapping[bytes, bytes] = field(default_factory=dict)
    origins: Origins = ()

    def add(self, page: Sequence[tuple[Cursor, bytes]]) -> None:
        """Add the next entries.

        Raises:
            CorruptRecordError: One is not what an append adds next.
            UnsupportedVersion: A newer runstream wrote one.
        """
        run_id, erased = self.run.run_id, self.erasures.spans_since(0)
        for at, record in page:
            if record == ERASED:
                is_next = has_offset(erased, at.offset)
            else:
                is_ours = is_sound(written_as(run_id, self.origins, at.offset), record)
                is_next = is_ours and next_chain(self.last.chain, record_crc(record)) == at.chain
            if not is_next or at.offset != self.last.offset + 1:
                why = f"its entry {at} is not one that an append adds after {self.last}"
                raise corrupt_key(run_id, self.run.events, why)
            self.last, self.largest = at, max(self.largest, len(record))
            if at.offset == self.erasures.base:
                self.base = at
        for entry in archive_entries(run_id, page, self.origins):
            self._add_event(entry)

    def _add_event(self, entry: ArchiveEntry) -> None:
        if entry.key is not None:
            self.keys.setdefault(entry.key, entry.cursor)
        try:
            fields = entry_fields(self.run.run_id, entry)
        except CorruptRecordError:  # kept aside as bytes, as any such record is
            fields = None
        if fields is None:  # or it was erased
            self.unread = entry.offset
            return
        lane, seq, at = fields["lane_id"], int(fields["seq"]), entry.offset
        span = self.lanes.get(lane)
        self.lanes[lane] = LaneSpan.of(at, seq) if span is None else span.then(at, seq)
        if at > self.covered.get(lane, 0):
            self.since.setdefault(lane, at)
        self.people.add(at, fields)
        if status_after([fields["kind"]]):
            self.kinds.append((at, fields["kind"]))
        self.session_id = self.session_id or fields.get("session_id") or ""

    def fields(self, meta: Mapping[bytes, bytes]) -> dict[str, str]:
        """The fields of meta as the append would have set them, but for the times."""
        fields = {name.decode(): value.decode() for name, value in self.beginning.items()}
        fields |= self.people.fields(meta.get(b"questions"))
        fields["last"] = str(self.last)
        fields |= self._lost_fields()
        retired = parse_retired(meta.get(b"retired"), meta.get(b"ended"))
        ended_at, ended_revision = map(int, meta.get(b"ended", b"0 0").split())
        start, _ = noted_start(meta[b"start"])
        for lane, span in self.lanes.items():
            known = meta.get(f"lane:{lane}".encode())
            fields[f"lane:{lane}"] = self._mark(span, b"" if known is None and retired is not None else known)
            if f"since:{lane}".encode() not in meta and lane in self.since:
                # of a lane that was retired the worst is assumed; see append.lua
                upto = self.former.offset if b"retired" in meta else ended_at
                is_lost = known is None and retired is not None and upto > start.offset
                fields[f"since:{lane}"] = str(start.offset + 1 if is_lost else self.since[lane])
            if known is None and ended_revision and gone_field(lane).encode() not in meta:
                fields[f"back:{lane}"] = str(ended_revision)
        if self.keys and b"keyed" not in meta:
            fields["keyed"] = "1"
        if self.session_id and not meta.get(b"session"):
            fields["session"] = self.session_id
        if retired is not None and retired.offset is None:
            fields["mark"] = str(self.former)
            fields["retired"] = f"{meta[b'retired'].decode()} {self.former.offset}"
        largest = noted_size(meta.get(b"largest"))
        if self.beginning or (largest is not None and self.largest > largest):
            fields["largest"] = str(size_bound(self.largest))
        return fields

    def _lost_fields(self) -> dict[str, str]:
        """The fields of a meta that is not there any more, which no append sets."""
        fields = {"unread": str(self.unread)} if self.beginning and self.unread else {}
        if self.erasures.last:
            fields["erasures"] = str(self.erasures.last)
        if self.base is not None:
            fields |= {"base": str(self.base), "mark": str(self.base), "trimmed": str(self.base.offset)}
        return fields

    def _mark(self, span: LaneSpan, former: bytes | None) -> str:
        """Meta's mark of a lane; see seq_in_mark in common.lua."""
        rises = span.rises and not self.unread
        if former is not None:
            _, _, highest = former.partition(b" +")
            rises = rises and highest.isdigit() and span.first_seq >= int(highest)
        return f"{span.last} {'+' if rises else ''}{span.last_seq}"


class Beginning(NamedTuple):
    """The part of a history that has left Redis.

    Attributes:
        meta: The fields of meta as they would be if the run ended with it.
        keys: The cursors of its events that have callers' keys.
    """

    meta: Mapping[str, str]
    keys: Mapping[str, Cursor]


FindBeginning: TypeAlias = Callable[[Cursor, Mapping[str | None, int], int], Beginning | None]
"""Finds the beginning of a run up to a cursor, given up to where the snapshot of each lane covers the history, and
the offset before the first event that counts."""


class _Snapshots(NamedTuple):
    """The snapshots of a run without a meta: the fields for them and for its tags, what they cover, its status."""

    fields: Mapping[str, str]
    covered: Mapping[str | None, int]
    status: str | None


def adopt(keys: Keys, run_id: str, rebuild: FindBeginning | None = None) -> Operation[Adopted | None]:
    """Take into a run's history what is in its stream and not in its meta.

    Args:
        keys: The namespace's keys.
        run_id: The run.
        rebuild: Where the run has no meta, and may have had one: make it anew from all that is left, and where its
            beginning has left Redis, from what this finds of it. Leases are void then, and what was archived is
            proven again.

    Returns:
        What it was; None if there is nothing of the kind.

    Raises:
        CorruptRecordError: What is there is not what an append adds, or not all that there once was.
        UnsupportedVersion: A newer runstream wrote it.
        ConcurrencyConflict: The run goes on all the while.
    """
    run = keys.run(run_id)
    for _ in range(_ATTEMPTS):
        reply, first = yield Exchange([(b"HGETALL", run.meta), (b"XRANGE", run.events, "-", "+", b"COUNT", 1)])
        meta = parse_map(reply)
        is_new = b"start" not in meta
        if is_new != (b"last" not in meta):
            raise corrupt_key(run_id, run.meta, "it lacks the field start or last")
        if not first:
            return None
        if is_new:
            left, found = yield from _without_meta(run, first, rebuild)
            meta = {**left.beginning, **meta}
        else:
            with parsing(run):
                last = noted_cursor(meta[b"last"])
            left, found = _Left(run, last, last, {}), _Snapshots({}, {}, None)
        seen = "-" if is_new else f"{meta[b'start'].decode()} {meta[b'last'].decode()}"
        yield from _read(left)
        if left.last == left.former:
            return None
        was_whole = is_new and (yield from _had_appends(left, found))
        drops = is_new and rebuild is None
        if (yield from _adopt(keys, left, meta, found, seen=seen, was_whole=was_whole, drops=drops)):
            return Adopted(left.former.offset + 1, left.last)
    raise ConcurrencyConflict(
        f"run {run_id!r} went on all the while that its end was looked at: send the same call again",
        expected=left.former.offset,
        actual=left.last.offset,
    )


def _without_meta(
    run: RunKeys, first: Sequence[Any], rebuild: FindBeginning | None
) -> Operation[tuple[_Left, _Snapshots]]:
    """The beginning of what is left of a run without a meta, and its snapshots."""
    at, (record,) = parse_cursor(first[0][0]), parse_records(first)
    is_own = is_sound(run.run_id, record)  # else it was copied from another run, as an archive may know
    before = Cursor(at.offset - 1, former_chain(at.chain, record_crc(record)))
    found = _Snapshots({}, {}, None) if rebuild is None else (yield from _snapshots(run))
    (reply,) = yield Exchange([(b"HGETALL", run.erasures)])
    with parsing(run, run.erasures):
        left = _Left(run, before, before, found.covered, erasures=parse_erasures(parse_map(reply), None))
    beginning = (
        None if rebuild is None else (yield Call(partial(rebuild, before, found.covered, left.erasures.base)))
    )
    if beginning is None and before.offset == 0 and is_own:  # a fork may begin there, too, as an archive may know
        left.beginning = {b"start": str(before).encode()}
        return left, found
    if beginning is None:
        why = ": no archive at hand has what came before" if is_own else ", which does not read"
        raise corrupt_key(run.run_id, run.meta, f"it was removed, and the stream begins with {at}{why}")
    left.beginning = {name.encode(): value.encode() for name, value in beginning.meta.items()}
    left.origins = parse_origins(left.beginning.get(b"origin"))
    left.keys = dict(beginning.keys)
    return left, found


def _next_page(left: _Left, pages: PageSize) -> list[Command]:
    after = f"({left.last}" if left.last.offset else "-"
    return [(b"XRANGE", left.run.events, after, "+", b"COUNT", pages.count)]


def _read(left: _Left) -> Operation[None]:
    pages = PageSize(_PAGE)
    while True:
        (entries,) = yield pages.exchange(partial(_next_page, left, pages))
        if not entries:
            return
        records = parse_records(entries)
        pages.adapt(list(map(len, records)))
        left.add([(parse_cursor(entry[0]), record) for entry, record in zip(entries, records, strict=True)])


def _snapshots(run: RunKeys) -> Operation[_Snapshots]:
    lanes = yield from snapshots_left(run)
    replies = (yield Exchange([(b"HGETALL", run.snapshot(lane)) for lane in lanes])) if lanes else []
    fields: dict[str, str] = {}
    covered: dict[str | None, int] = {}
    status = None
    for lane, reply in zip(lanes, replies, strict=True):
        with parsing(run, run.snapshot(lane)):
            saved = read_saved(parse_map(reply))
        fields[snapshot_field(lane)] = f"{saved.offset} {saved.revision} {saved.token}"
        covered[lane] = saved.offset
        said = saved.state.get("status")
        if lane is None and isinstance(said, str) and said in STATUSES:
            status = said
    (version,) = yield Exchange([(b"HGET", run.tags, "")], tolerant=True)
    if isinstance(version, bytes):
        fields["tags"] = version.decode(errors="replace")
    return _Snapshots(fields, covered, status)


def snapshots_left(run: RunKeys) -> Operation[list[str | None]]:
    """The lanes (None: the run itself) whose snapshots are there, whatever meta says."""
    lanes: list[str | None] = []
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", run.run_snapshot) + "*"
    cursor = b"0"
    while True:
        page: Command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCAN_COUNT)
        ((cursor, found),) = yield Exchange([page], near=run.meta)
        names = (key.decode(errors=_AS_IT_IS)[len(run.run_snapshot) :] for key in found)
        lanes += [name[1:] if name else None for name in names if name == "" or name[0] == ":"]
        if cursor == b"0":
            return lanes


def _had_appends(left: _Left, found: _Snapshots) -> Operation[bool]:
    """Whether an append to a run without a meta has come to its end.

    Raises CorruptRecordError where the run went further than its stream, which has lost its end.
    """
    (replies,) = yield Exchange([(b"HGETALL", left.run.producers)])
    with parsing(left.run, left.run.producers):
        reached = [parse_cursor(reply.split()[2]).offset for reply in parse_map(replies).values()]
    farthest = max([*reached, *found.covered.values()], default=0)
    if farthest > left.last.offset:
        why = f"it ends at {left.last}, and the run went on to offset {farthest}: events of it are lost"
        raise corrupt_key(left.run.run_id, left.run.events, why)
    return any(reached)  # one that was revoked reached 0


def _adopt(
    keys: Keys,
    left: _Left,
    meta: Mapping[bytes, bytes],
    found: _Snapshots,
    *,
    seen: str,
    was_whole: bool,
    drops: bool,
) -> Operation[bool]:
    """Note it all in meta, if the run is as it was seen.

    ``was_whole``: the entries were acknowledged; ``drops``: its snapshots were not.
    """
    run, partition = left.run, left.run.partition
    with parsing(run):
        fields = {**found.fields, **left.fields(meta)}
    after = found.covered.get(None, 0)
    status = status_after(kind for at, kind in left.kinds if at > after)
    if status is None and left.people.asks:
        status = RunStatus.PAUSED.value
    if status is None and (after > left.former.offset or b"status" not in meta):
        status = found.status
    if status or b"status" not in meta:
        fields["status"] = status or "running"
    session_id = fields.get("session") or meta.get(b"session", b"").decode()
    names = [run.events, run.meta, run.producers, run.keys, partition.runs, partition.due, partition.config]
    names.append(partition.session(session_id))
    if drops:
        names += [run.snapshot(lane) for lane in (None, *left.lanes)]
    former = "-" if was_whole else str(left.former)
    args: list[Any] = [run.run_id, seen, former, str(left.last), len(keys.partitions), session_id]
    args.append(len(left.keys))
    for key, cursor in left.keys.items():
        args += (key, str(cursor))
    for pair in fields.items():
        args += pair
    ((outcome, *_),) = yield Exchange([script_call(ADOPT, names, args)])
    return bool(outcome == b"ok")
