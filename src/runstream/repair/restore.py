"""Make a run in Redis what an archive says: all of it at once, or nothing.

An archive keeps JSON, Redis keeps records. Each record is made anew from the archive's JSON, and its
checksum must give the very chain that the archive has: what cannot be shown to be the same is not put back.

:func:`put_back` decides whether that is to be done: after a lost Redis, or to work on an old run. What Redis has,
and the archive has not, is never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from runstream.codec.archive_entries import entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec, EventFields
from runstream.codec.record import ERASED, record_crc
from runstream.history.hot import ArchivedHistory, HotHistory, parting
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    HistoryDiverged,
    RunstreamError,
)
from runstream.model.protocols import MendableSink
from runstream.model.results import Cursor
from runstream.repair.branches import branch_name
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.admin import restore
from runstream.stores.redis.operations.admin.restore import HotRun, Replacement
from runstream.stores.tokens import random_token

__all__ = ["PutBack", "is_branch", "made_record", "put_back", "restore_run"]

_BATCH = 500
_BATCH_BYTES = 4 * 2**20

# what has been stored once is stored again, whatever the limits of the store at hand
_CODEC: Codec[Any, Any] = Codec(fallback=None, max_event_bytes=2**62)


@dataclass(frozen=True, slots=True)
class PutBack:
    """A run after it was put back, or found there: Redis has it up to ``last``, from ``first_hot`` on."""

    run_id: str
    outcome: Literal["restored", "there already"]
    last: Cursor
    first_hot: int


def restore_run(
    hot: RedisCheckpointer[Any, Any],
    source: ArchivedHistory,
    *,
    seen: HotRun | None,
    common: int,
    keep_from: int | None = None,
    on_events: Callable[[int], None] | None = None,
) -> int:
    """Let the run in Redis have the archive's history, and no other; how many entries it has there then.

    Redis gets what ``recover`` needs, and at least the entries from offset ``keep_from`` on; the rest stays in the
    archive. ``seen`` is the run as it was in Redis (None: it was not there), ``common`` the last offset that the
    two histories share, 0 for none. Leases are void then, and the run is due. What is half done when this is
    killed expires within an hour.

    Raises ConcurrencyConflict if the run is not as it was seen any more, CorruptRecordError for an archive
    whose events do not give its chains; nothing has changed then.
    """
    keys, run_id, token = hot.context.keys, source.run_id, random_token()
    snapshots = source.snapshots()
    lanes = _Lanes({one.lane_id: one.offset for one in snapshots})
    places: dict[str, Cursor] = {}

    def put(batch: list[tuple[Cursor, bytes]]) -> int:
        return hot.perform(restore.put_entries(keys, run_id, token, batch, places))

    _check_covered(source, snapshots)
    for entry in source.entries(source.header.start.offset):
        lanes.add(run_id, entry)
        if on_events is not None and (entry.offset % _BATCH == 0 or entry.offset == source.last.offset):
            on_events(min(_BATCH, entry.offset - source.header.start.offset))
        if entry.key is not None:
            places.setdefault(entry.key, entry.cursor)
            if len(places) == _BATCH:
                put([])
                places.clear()
    count = put([])
    first = lanes.first_needed(source.last.offset)
    if keep_from is not None:
        first = min(first, max(keep_from, source.first))
    before = source.at(first - 1) or source.header.start
    places.clear()
    for batch in _batches(run_id, before, source.entries(before.offset)):
        count = put(batch)
    for snapshot in snapshots:
        try:
            hot.perform(restore.put_snapshot(keys, run_id, token, snapshot))
        except (ValueError, TypeError, AttributeError) as error:
            raise _bad_snapshot(run_id, snapshot, f"it does not read: {error}") from error
    replacement = Replacement(source.header, source.last, before, lanes.last, lanes.since, snapshots)
    hot.perform(restore.switch(keys, seen, replacement, token=token, count=count, common=common))
    return count


def put_back(
    hot: RedisCheckpointer[Any, Any],
    sink: MendableSink,
    run_id: str,
    *,
    whole: bool = False,
    on_events: Callable[[int], None] | None = None,
) -> PutBack:
    """Let Redis have a run of an archive: offsets, chains, snapshots, keys, status and times as they were.

    Redis gets what ``recover`` needs, and the rest stays in the archive; ``whole``: it gets every event. The run
    is due then, and what it has in Redis is proven again before anything is trimmed. What Redis has as far as
    the archive, or further, is left alone; a retired run is made hot again. Repeated, it goes on where it was.

    Raises HistoryDiverged where Redis has another history, or a snapshot that the archive has not;
    ConcurrencyConflict where a retired run is known to have gone on behind the archive's end, or was written to
    meanwhile; CorruptRecordError for an archive that does not prove its chains; ConfigurationError for a run that
    the archive has no events of, for a branch, and where the namespace requires other archives but this one,
    which would be left with holes. Nothing has changed then.
    """
    source = ArchivedHistory.look(sink, run_id)
    if source is None:
        raise ConfigurationError(f"{sink.location} has no events of run {run_id!r}")
    if is_branch(source):
        raise ConfigurationError(
            f"run {run_id!r} is a branch that gave way: its chains are those of {source.header.parent}, and it"
            " stays in the archive; read it there"
        )
    redis = HotHistory.look(hot, run_id)
    common = 0 if redis is None else _common(redis, source)
    if redis is not None and common is None:
        return PutBack(run_id, "there already", redis.last, redis.first)
    keep_from = None
    if whole:
        keep_from = source.first
    elif redis is not None and not redis.found.is_tombstone:
        keep_from = min(redis.first, redis.last.offset + 1)
    if not whole:
        _check_required(hot, source)
    seen = None if redis is None else redis.found
    count = restore_run(hot, source, seen=seen, common=common or 0, keep_from=keep_from, on_events=on_events)
    return PutBack(run_id, "restored", source.last, source.last.offset - count + 1)


def is_branch(history: ArchivedHistory) -> bool:
    """Whether it is a branch that gave way: its records were made under the name of another run."""
    parent = history.header.parent
    return parent is not None and history.run_id == branch_name(parent[0], history.last)


def _common(redis: HotHistory, source: ArchivedHistory) -> int | None:
    """The last offset that both have, if Redis lacks what the archive has; None if it lacks nothing.

    Raises HistoryDiverged or ConcurrencyConflict where something of Redis would be lost.
    """
    parted = parting(source, redis)
    if redis.found.is_tombstone and source.last.offset < redis.last.offset:
        raise ConcurrencyConflict(
            f"run {redis.run_id!r} was retired at {redis.last}, and {source.location} has it up to {source.last}"
            " only: nothing was changed; restore it from the archive that has all of it",
            expected=redis.last.offset,
            actual=source.last.offset,
        )
    if parted is not None and parted.place == redis.last:
        newer = _newer_lanes(redis, source)
        if redis.last == source.last and (newer or not _lacks_snapshots(redis, source)):
            return redis.last.offset if redis.found.is_tombstone else None
        if not newer:
            return redis.last.offset
    elif parted is not None and not parted.differ and (parted.place == source.last or not parted.exact):
        return None  # Redis is further
    raise HistoryDiverged(
        f"Redis has run {redis.run_id!r} up to {redis.last}, {source.location} up to {source.last}, and"
        " neither has all of the other: nothing was changed; look at both, and decide: `runstream resolve"
        f" {redis.run_id}`",
        run_id=redis.run_id,
        offset=min(redis.last.offset, source.last.offset) if parted is None else parted.place.offset + 1,
    )


def _newer_lanes(redis: HotHistory, source: ArchivedHistory) -> list[str | None]:
    """Of which lanes (None: the run) Redis has a snapshot that the archive never had.

    One that was proven to be archived, and is not in the archive any more, has been replaced there by a later one.
    """
    held, archived, proven = redis.snapshots(), source.tokens(), redis.found.run.proven
    revisions = {one.lane_id: one.revision for one in source.snapshots()}
    replaced = {
        one.lane_id
        for one in held
        if proven.get(one.lane_id) == one.token and one.revision < revisions.get(one.lane_id, 0)
    }
    return [lane for lane, token in redis.tokens().items() if archived.get(lane) != token and lane not in replaced]


def _lacks_snapshots(redis: HotHistory, source: ArchivedHistory) -> bool:
    there = redis.tokens()
    return any(there.get(lane) != token for lane, token in source.tokens().items())


def _check_required(hot: RedisCheckpointer[Any, Any], source: ArchivedHistory) -> None:
    """Raise ConfigurationError where what stays in the archive would be missing in those that are required."""
    required = hot.perform(restore.required_archives(hot.context.keys, source.run_id))
    if required and source.sink.archive_id not in required:
        raise ConfigurationError(
            f"the namespace requires {', '.join(sorted(required.values()))}, not {source.location}: what stays in"
            f" that of run {source.run_id!r} would be missing there; put all of it back, with --whole"
        )


def _check_covered(source: ArchivedHistory, snapshots: Sequence[ArchiveSnapshot]) -> None:
    for snapshot in snapshots:
        if not source.header.start.offset <= snapshot.offset <= source.last.offset:
            raise _bad_snapshot(
                source.run_id,
                snapshot,
                f"it covers event {snapshot.offset} of a history that ends at {source.last.offset}; if a worker"
                " writes to the archive, do it again",
            )


@dataclass(slots=True)
class _Lanes:
    """What Redis notes of a run's lanes, gathered from its events; ``covered`` is what each snapshot covers."""

    covered: dict[str | None, int]
    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)

    def add(self, run_id: str, entry: ArchiveEntry) -> None:
        """Take note of the next entry. Nobody knows the lane of one that does not read."""
        if entry.data is None:
            return
        fields = entry_fields(run_id, entry) or {}
        lane = fields.get("lane_id", "main")
        self.last[lane] = (entry.offset, fields.get("seq", 0))
        if lane not in self.since and entry.offset > self.covered.get(lane, 0):
            self.since[lane] = entry.offset

    def first_needed(self, last: int) -> int:
        """The first offset that ``recover`` needs, of the run or of a lane: as settle.lua has it."""
        of_run = self.covered.get(None)
        limit = last if of_run is None else min(last, of_run)
        for lane, offset in self.since.items():
            if lane in self.covered or of_run is None:
                limit = min(limit, offset - 1)
        return limit + 1


def _batches(run_id: str, before: Cursor, entries: Iterator[ArchiveEntry]) -> Iterator[list[tuple[Cursor, bytes]]]:
    batch: list[tuple[Cursor, bytes]] = []
    size = 0
    for entry in entries:
        record = _record(run_id, before, entry)
        before = entry.cursor
        batch.append((before, record))
        size += len(record)
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _record(run_id: str, before: Cursor, entry: ArchiveEntry) -> bytes:
    """The wire record of an entry, shown to be the one that its chain was made from."""
    if entry.data is None and entry.raw is None:
        return ERASED
    try:
        record = entry.raw
        if record is None:
            record = made_record(run_id, entry_fields(run_id, entry) or {}, entry.key)
    except CorruptRecordError:
        raise
    except RunstreamError as error:
        raise _unproven(run_id, entry, str(error)) from error
    if next_chain(before.chain, record_crc(record)) != entry.chain:
        raise _unproven(run_id, entry, "its text does not give the chain that it has")
    return record


def _bad_snapshot(run_id: str, snapshot: ArchiveSnapshot, why: str) -> CorruptRecordError:
    of_lane = "" if snapshot.lane_id is None else f" of lane {snapshot.lane_id!r}"
    return CorruptRecordError(
        f"snapshot {snapshot.revision}{of_lane} of run {run_id!r} cannot be put back into Redis: {why}; nothing"
        " was changed there",
        run_id=run_id,
        offset=snapshot.offset,
        raw=snapshot.data.encode(errors="surrogatepass"),
    )


def made_record(run_id: str, fields: dict[str, Any], key: str | None) -> bytes:
    """The wire record of an event with these fields, made anew.

    Raises InvalidRunId or EncodingError for what is no event of that run.
    """
    (encoded,) = _CODEC.encode_events(run_id, [EventFields(fields)], [key])
    return encoded.record


def _unproven(run_id: str, entry: ArchiveEntry, why: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"event {entry.offset} of run {run_id!r} cannot be put back into Redis: {why}; nothing was changed there",
        run_id=run_id,
        offset=entry.offset,
        raw=entry.raw if entry.raw is not None else (entry.data or "").encode(),
    )
