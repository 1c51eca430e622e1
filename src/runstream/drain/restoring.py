"""Make a run in Redis what an archive says: all of it at once, or nothing.

An archive keeps JSON, Redis keeps records. Each record is made anew from the archive's JSON, and its
checksum must give the very chain that the archive has: what cannot be shown to be the same is not put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runstream.codec.archiving import entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.record import ERASED, record_crc
from runstream.codec.shapes import Codec
from runstream.drain.histories import ArchivedHistory
from runstream.model.archive import ArchiveEntry
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.values import Cursor
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations import restoring
from runstream.stores.redis.operations.restoring import HotRun, Replacement
from runstream.stores.tokens import random_token

__all__ = ["EventFields", "restore_run"]

_BATCH = 500
_BATCH_BYTES = 4 * 2**20

# what has been stored once is stored again, whatever the limits of the store at hand
_CODEC: Codec[Any, Any] = Codec(fallback=None, max_event_bytes=2**62)


class EventFields(NamedTuple):
    """An event's fields in the shape that a codec takes."""

    fields: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return self.fields


def restore_run(
    hot: RedisCheckpointer[Any, Any],
    source: ArchivedHistory,
    *,
    seen: HotRun | None,
    common: int,
    keep_from: int | None = None,
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
        return hot.perform(restoring.put_entries(keys, run_id, token, batch, places))

    for entry in source.entries(source.header.start.offset):
        lanes.add(run_id, entry)
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
        hot.perform(restoring.put_snapshot(keys, run_id, token, snapshot))
    replacement = Replacement(source.header, source.last, before, lanes.last, lanes.since, snapshots)
    hot.perform(restoring.switch(keys, seen, replacement, token=token, count=count, common=common))
    return count


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
    record = entry.raw
    if record is None:
        try:
            fields = EventFields(entry_fields(run_id, entry) or {})
            (encoded,) = _CODEC.encode_events(run_id, [fields], [entry.key])
        except CorruptRecordError:
            raise
        except RunstreamError as error:
            raise _unproven(run_id, entry, str(error)) from error
        record = encoded.record
    if next_chain(before.chain, record_crc(record)) != entry.chain:
        raise _unproven(run_id, entry, "its text does not give the chain that it has")
    return record


def _unproven(run_id: str, entry: ArchiveEntry, why: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"event {entry.offset} of run {run_id!r} cannot be put back into Redis: {why}; nothing was changed there",
        run_id=run_id,
        offset=entry.offset,
        raw=entry.raw if entry.raw is not None else (entry.data or "").encode(),
    )
