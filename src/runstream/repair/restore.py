"""Restore a run in Redis from an archive, atomically.

An archive keeps JSON, Redis keeps records. Each record is made anew from the archive's JSON, and its
checksum must give the very chain that the archive has: what cannot be shown to be the same is not put back.

:func:`put_back` checks whether that may be done, after a lost Redis or to work on an old run. What Redis has and
the archive does not is never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

from runstream.codec.archive_entries import entry_fields
from runstream.history.archived import ArchivedHistory
from runstream.history.divergence import find_divergence
from runstream.history.hot import HotHistory
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    HistoryDiverged,
)
from runstream.model.events import HIGHEST_SEQ
from runstream.model.identifiers import random_token
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.model.run_head import last_unneeded
from runstream.repair.branches import origins_of
from runstream.repair.proof import proven_records
from runstream.stores.capabilities import archive_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.append_batch import HIGHEST_RISING
from runstream.stores.redis.namespace import Namespace, namespace_of
from runstream.stores.redis.operations.admin.restore import Replacement
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.people_notes import PeopleNotes

__all__ = ["Lanes", "PutBack", "put_back", "restore_run"]

_BATCH = 500
_BATCH_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class PutBack:
    """The result of putting a run back: Redis has it from offset ``first_hot`` up to ``last``."""

    run_id: str
    outcome: Literal["restored", "there already"]
    last: Cursor
    first_hot: int


def restore_run(
    hot: RunStore[Any, Any],
    source: ArchivedHistory,
    *,
    seen: HotRun | None,
    common: int,
    keep_from: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Replace a run's history in Redis by the archive's.

    Redis gets what ``recover`` needs, and the rest stays in the archive. Leases are void then, and the run is due.
    What is half done when this is killed expires within an hour.

    Args:
        hot: The Redis store.
        source: The archive's history.
        seen: The run as it was in Redis; None: it was not there.
        common: The last offset that the two histories share; 0 for none.
        keep_from: Redis also gets all entries from this offset on.
        on_progress: Called now and then with the number of further events that were read.

    Returns:
        How many entries Redis has of the run then.

    Raises:
        ConcurrencyConflict: The run is not as it was seen any more; nothing has changed.
        CorruptRecordError: The archive's events do not give its chains; nothing has changed.
    """
    namespace, run_id, token = namespace_of(hot), source.run_id, random_token()
    snapshots = source.snapshots()
    _check_covered(source, snapshots)
    ended = source.archive.ended_lanes(run_id)
    lanes = Lanes({one.lane_id: one.offset for one in snapshots}, keep_from, {end.lane_id for end in ended})
    keyed = _scan(source, lanes, partial(namespace.put_entries, run_id, token, ()), on_progress)
    first = lanes.first_needed(source.last.offset)
    if keep_from is not None:
        first = min(first, keep_from)
    first = max(first, source.first)  # of a lane that was truncated, too
    before = source.at(first - 1) or source.header.before_first
    count = largest = 0
    for batch in _batches(source, before):
        largest = max(largest, *(len(record) for _, record in batch))
        count = namespace.put_entries(run_id, token, batch, {})
    for snapshot in snapshots:
        try:
            namespace.put_snapshot(run_id, token, snapshot)
        except (ValueError, TypeError, AttributeError) as error:
            raise _bad_snapshot(run_id, snapshot, f"it does not read: {error}") from error
    peak, rising = lanes.peaks.get(before.offset), lanes.rising
    header = source.header
    if seen is not None and header.tags is not None and not header.tags.follows(seen.head.tags):
        header = replace(header, tags=None)  # those that Redis has are as new
    replacement = Replacement(
        header,
        source.last,
        before,
        lanes.last,
        lanes.since_in(before.offset + 1),
        peak,
        rising,
        largest,
        snapshots,
        lanes.unread,
        lanes.people.fields(),
        ended,
    )
    namespace.switch_history(seen, replacement, token=token, count=count, keyed=keyed, common=common)
    return count


def _scan(
    source: ArchivedHistory,
    lanes: Lanes,
    put_keys: Callable[[dict[str, Cursor]], object],
    on_progress: Callable[[int], None] | None,
) -> int:
    """Read all of a history: gather the facts of its lanes, and put the cursors of its callers' keys.

    Returns:
        How many keys it has.
    """
    keys: dict[str, Cursor] = {}
    known: set[str] = set()
    before = source.header.before_first.offset
    for entry in chain(source.former(), source.entries(before)):
        lanes.add(source.run_id, entry)
        is_counted = entry.offset % _BATCH == 0 or entry.offset == source.last.offset
        if on_progress is not None and is_counted and entry.offset > before:
            on_progress(min(_BATCH, entry.offset - before))
        if entry.key is not None:
            known.add(entry.key)
            keys.setdefault(entry.key, entry.cursor)
            if len(keys) == _BATCH:
                put_keys(keys)
                keys = {}
    put_keys(keys)
    return len(known)


def put_back(
    hot: RunStore[Any, Any],
    sink: Sink,
    run_id: str,
    *,
    whole: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> PutBack:
    """Put a run of an archive back into Redis: offsets, chains, snapshots, keys, status and times as they were.

    Redis gets what ``recover`` needs, and the rest stays in the archive. The run is due then, and what it has in
    Redis is proven again before anything is trimmed. What Redis has as far as the archive, or further, is left
    alone; a retired run is made hot again. Repeated, it goes on where it was.

    Args:
        hot: The Redis store.
        sink: The archive.
        run_id: The run.
        whole: Redis gets every event.
        on_progress: Called now and then with the number of further events that were read.

    Raises:
        HistoryDiverged: Redis has another history, or a snapshot that the archive has not.
        ConcurrencyConflict: A retired run is known to have gone on behind the archive's end, or the run was
            written to meanwhile.
        CorruptRecordError: The archive does not prove its chains.
        ConfigurationError: The archive has no events of the run, or the namespace requires
            other archives but this one, which would be left with gaps. In all these cases nothing has changed.
    """
    archive = archive_of(sink)
    while True:
        source = ArchivedHistory.load(archive, run_id)
        if source is None:
            raise ConfigurationError(f"{sink.location} has no events of run {run_id!r}")
        source.header = replace(source.header, origins=origins_of(source))
        try:
            return _put_back(hot, source, whole=whole, on_progress=on_progress)
        except CorruptRecordError:
            now = ArchivedHistory.load(archive, run_id)
            if now is None or now.last == source.last:
                raise  # else a worker has written to it meanwhile: what was read is of two times


def _put_back(
    hot: RunStore[Any, Any],
    source: ArchivedHistory,
    *,
    whole: bool,
    on_progress: Callable[[int], None] | None,
) -> PutBack:
    """``put_back``, of a run as its archive had it."""
    namespace, run_id = namespace_of(hot), source.run_id
    redis = HotHistory.load(namespace, run_id)
    common = 0 if redis is None else _common(redis, source)
    if redis is not None and common is None:
        return PutBack(run_id, "there already", redis.last, redis.first)
    keep_from = None
    if whole:
        keep_from = source.first
    elif redis is not None and not redis.run.is_tombstone:
        keep_from = min(redis.first, redis.last.offset + 1)
    if not whole:
        _check_required(namespace, source)
    seen = None if redis is None else redis.run
    count = restore_run(hot, source, seen=seen, common=common or 0, keep_from=keep_from, on_progress=on_progress)
    return PutBack(run_id, "restored", source.last, source.last.offset - count + 1)


def _common(redis: HotHistory, source: ArchivedHistory) -> int | None:
    """The last offset that both have, if Redis lacks what the archive has; None if it lacks nothing.

    Raises:
        HistoryDiverged: Something of Redis would be lost.
        ConcurrencyConflict: Something that was retired would be lost.
    """
    divergence = find_divergence(source, redis)
    if redis.run.is_tombstone and source.last.offset < redis.last.offset:
        raise ConcurrencyConflict(
            f"run {redis.run_id!r} was retired at {redis.last}, and {source.location} has it up to {source.last}"
            " only: nothing was changed; restore it from the archive that has all of it",
            expected=redis.last.offset,
            actual=source.last.offset,
        )
    if divergence is not None and divergence.cursor == redis.last:
        newer = _newer_lanes(redis, source)
        if redis.last == source.last and (newer or not _lacks_snapshots(redis, source)):
            return redis.last.offset if redis.run.is_tombstone else None
        if not newer:
            return redis.last.offset
    elif (
        divergence is not None
        and not divergence.differ
        and (divergence.cursor == source.last or not divergence.exact)
    ):
        return None  # Redis is further
    raise HistoryDiverged(
        f"Redis has run {redis.run_id!r} up to {redis.last}, {source.location} up to {source.last}, and"
        " neither has all of the other: nothing was changed; look at both, and decide: `runstream resolve"
        f" {redis.run_id}`",
        run_id=redis.run_id,
        offset=min(redis.last.offset, source.last.offset) if divergence is None else divergence.cursor.offset + 1,
    )


def _newer_lanes(redis: HotHistory, source: ArchivedHistory) -> list[str | None]:
    """The lanes (None: the run itself) of which Redis has a snapshot that the archive never had.

    One that was proven to be archived, and is not in the archive any more, has been replaced there by a later one.
    """
    held, archived, proven = redis.snapshots(), source.tokens(), redis.run.proven_tokens
    revisions = {one.lane_id: one.revision for one in source.snapshots()}
    replaced = {
        one.lane_id
        for one in held
        if proven.get(one.lane_id) == one.token and one.revision < revisions.get(one.lane_id, 0)
    }
    return [lane for lane, token in redis.tokens().items() if archived.get(lane) != token and lane not in replaced]


def _lacks_snapshots(redis: HotHistory, source: ArchivedHistory) -> bool:
    there = redis.tokens()
    # lanes that were ended have left Redis
    ended = {end.lane_id for end in source.archive.ended_lanes(source.run_id)} - there.keys()
    return any(there.get(lane) != token for lane, token in source.tokens().items() if lane not in ended)


def _check_required(namespace: Namespace, source: ArchivedHistory) -> None:
    """Raise ConfigurationError where what stays in the archive would be missing in those that are required."""
    required = namespace.archives_of_run(source.run_id)
    if required and source.archive.archive_id not in required:
        raise ConfigurationError(
            f"the namespace requires {', '.join(sorted(required.values()))}, not {source.location}: what stays in"
            f" that of run {source.run_id!r} would be missing there; put all of it back, with --whole"
        )


def _check_covered(source: ArchivedHistory, snapshots: Sequence[ArchiveSnapshot]) -> None:
    for snapshot in snapshots:
        if not source.header.begins_after <= snapshot.offset <= source.last.offset:
            raise _bad_snapshot(
                source.run_id,
                snapshot,
                f"it covers event {snapshot.offset} of a history that ends at {source.last.offset}; if a worker"
                " writes to the archive, do it again",
            )


@dataclass(slots=True)
class Lanes:
    """The facts of a run's lanes as Redis notes them, gathered from its events.

    Attributes:
        covered: The offset up to which the snapshot of each lane (None: of the run) covers the history.
        ended: The lanes that were ended: nobody needs their events from Redis.
        last: The offset and seq of each lane's last event.
        since: The offset of each lane's first event that no snapshot of it covers.
        peaks: The highest ``seq`` of all up to each offset at which Redis may begin.
        rising: The lanes none of whose events has a lower ``seq`` than one before it, as far as Redis notes that.
        peak: The highest ``seq`` of all.
        unread: The offset of the last entry whose lane is not known: it does not read, or was erased.
        people: What it and people have said to each other.
    """

    covered: Mapping[str | None, int]
    keep_from: int | None
    ended: Collection[str] = ()
    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    peaks: dict[int, int] = field(default_factory=dict)
    rising: set[str] = field(default_factory=set)
    peak: int = 0
    unread: int = 0
    people: PeopleNotes = field(default_factory=PeopleNotes)
    _has_unread: bool = False

    def add(self, run_id: str, entry: ArchiveEntry) -> None:
        """Add the next entry. Lane and ``seq`` of one that does not read are not known."""
        if entry.offset == self.keep_from:
            self.peaks[entry.offset - 1] = self.peak
        if entry.data is not None:
            fields = entry_fields(run_id, entry) or {}
            self.people.add(entry.offset, fields)
            self._add_event(entry.offset, fields.get("lane_id", "main"), int(fields.get("seq", 0)))
        elif entry.raw is None and entry.lane_id:
            self._add_event(entry.offset, entry.lane_id, entry.seq)  # it was erased
        else:
            self.unread = entry.offset
            if entry.raw is not None:
                self.peak, self._has_unread = HIGHEST_SEQ, True
                self.rising.clear()
        if entry.offset in self.covered.values():
            self.peaks[entry.offset] = self.peak

    def _add_event(self, offset: int, lane: str, seq: int) -> None:
        if lane not in self.last and not self._has_unread:
            self.rising.add(lane)
        if not self.last.get(lane, (0, 0))[1] <= seq <= HIGHEST_RISING:
            self.rising.discard(lane)
        self.last[lane] = (offset, seq)
        if lane not in self.since and offset > self.covered.get(lane, 0):
            self.since[lane] = offset
            if lane not in self.ended:
                self.peaks[offset - 1] = self.peak
        self.peak = max(self.peak, seq)

    def first_needed(self, last: int) -> int:
        """The first offset that ``recover`` needs, of the run or of a lane."""
        needed = {lane: offset for lane, offset in self.since.items() if lane not in self.ended}
        return last_unneeded(last, self.covered, needed) + 1

    def since_in(self, first: int) -> dict[str, int]:
        """``since`` where the history begins at this offset: it holds up nothing of a lane that was ended."""
        return {
            lane: max(offset, first) if lane in self.ended else offset
            for lane, offset in self.since.items()
            if lane not in self.ended or self.last[lane][0] >= first
        }


def _batches(source: ArchivedHistory, before: Cursor) -> Iterator[list[tuple[Cursor, bytes]]]:
    batch: list[tuple[Cursor, bytes]] = []
    size = 0
    for proven in proven_records(source, before, source.entries(before.offset)):
        batch.append(proven)
        size += len(proven[1])
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bad_snapshot(run_id: str, snapshot: ArchiveSnapshot, why: str) -> CorruptRecordError:
    of_lane = "" if snapshot.lane_id is None else f" of lane {snapshot.lane_id!r}"
    return CorruptRecordError(
        f"snapshot {snapshot.revision}{of_lane} of run {run_id!r} cannot be put back into Redis: {why}; nothing"
        " was changed there",
        run_id=run_id,
        offset=snapshot.offset,
        raw=snapshot.data.encode(errors="surrogatepass"),
    )
