"""The one checker of archives: P8, each acknowledged event exactly once, in order, under the chain it was given.

Every test of a fault of the drain ends here, whatever was killed in it. :func:`check_archives` compares archives
with what was acknowledged to the writers, :func:`check_drained` with what is in Redis when all is drained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from runstream import JSONLCheckpointer, Recorded, RedisCheckpointer, SQLiteCheckpointer
from runstream.codec.archive_entries import archive_entry, entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec, EventFields
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import ArchiveGap, CorruptRecordError
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.load import HotRun, LoadRequest

__all__ = ["Archive", "archive_faults", "check_archives", "check_drained", "drained_faults"]

Archive: TypeAlias = SQLiteCheckpointer[Any, Any] | JSONLCheckpointer[Any, Any]

_EVERYTHING = 2**53
"""An offset behind any that a test gives out: what an archive holds behind its own end is seen too."""


def check_archives(archives: Sequence[Archive], acknowledged: Mapping[str, Sequence[Any]], **options: Any) -> None:
    """Fail, with all that is wrong, unless each archive holds just what it must.

    ``acknowledged`` has for each run the events that were acknowledged, of each lane in order. Further
    options are those of :func:`archive_faults`.
    """
    faults = [
        f"{archive.location}, run {run_id!r}: {fault}"
        for archive in archives
        for run_id, events in acknowledged.items()
        for fault in archive_faults(archive, run_id, events, **options)
    ]
    assert not faults, "\n".join(faults)


def archive_faults(
    archive: Archive,
    run_id: str,
    events: Sequence[Any],
    *,
    or_more: bool = False,
    kept_aside: int = 0,
    unanswered: Iterable[Collection[str]] = (),
) -> Iterator[str]:
    """What is wrong with an archive's history of a run: nothing, if it holds just these events.

    ``or_more``: events whose reply was lost may be there too, once each. ``kept_aside``: so many records
    do not read, and are in the quarantine. ``unanswered``: batches among the events, as their span ids, that
    got no reply: each may be missing, but only as a whole.
    """
    position, bounds = archive.position(run_id), bounds_of(archive, run_id)
    entries = list(archive.read_back(run_id, 1, _EVERYTHING))
    present = _spans_in(run_id, entries)
    events = _without([batch for batch in unanswered if present.isdisjoint(batch)], events)
    if position is None or bounds is None:
        if events:
            yield "it is not there"
        return
    yield from _faults_of_chain(run_id, entries, bounds[0], position.cursor)
    yield from _faults_of_keys(entries)
    aside = [entry for entry in entries if entry.raw is not None]
    if len(aside) != kept_aside:
        yield f"{len(aside)} records are kept aside, not {kept_aside}"
    try:
        recorded = list(archive.read(run_id, on_corrupt="skip"))
    except ArchiveGap as gap:
        yield str(gap)
    else:
        yield from _faults_of_events(recorded, events, or_more=or_more)


def _spans_in(run_id: str, entries: Iterable[ArchiveEntry]) -> set[str]:
    found = [_fields_in(run_id, entry) for entry in entries]
    return {fields["span_id"] for fields in found if fields is not None}


def _fields_in(run_id: str, entry: ArchiveEntry) -> dict[str, Any] | None:
    """The event's fields; None where there are none, or they do not read."""
    try:
        return entry_fields(run_id, entry)
    except CorruptRecordError:
        return None


def _without(batches: Sequence[Collection[str]], events: Sequence[Any]) -> Sequence[Any]:
    left_out = {span for batch in batches for span in batch}
    return [event for event in events if event.span_id not in left_out]


def _faults_of_chain(run_id: str, entries: Sequence[ArchiveEntry], start: Cursor, last: Cursor) -> Iterator[str]:
    """Offsets are dense; every chain follows from the one before and from what the entry itself holds."""
    codec: Codec[Any, Any] = Codec()
    former = start
    for entry in entries:
        if entry.offset != former.offset + 1:
            yield f"{former.offset} is followed by {entry.offset}"
        elif (crc := _crc_of(codec, run_id, entry)) is None or entry.chain != next_chain(former.chain, crc):
            yield f"the chain breaks at {entry.offset}"
        former = entry.cursor
    if former != last:
        yield f"it ends at {former}, and says that it ends at {last}"


def _faults_of_keys(entries: Iterable[ArchiveEntry]) -> Iterator[str]:
    keys = Counter(entry.key for entry in entries if entry.key is not None)
    yield from (f"key {key!r} is there {count} times" for key, count in keys.items() if count > 1)


def _crc_of(codec: Codec[Any, Any], run_id: str, entry: ArchiveEntry) -> int | None:
    """The checksum of the record that the entry was made of; None where its text does not read."""
    if entry.raw is not None:
        return record_crc(entry.raw)
    fields = _fields_in(run_id, entry)
    if fields is None:
        return None
    (encoded,) = codec.encode_events(run_id, [EventFields(fields)], None if entry.key is None else [entry.key])
    return record_crc(encoded.record)


def _faults_of_events(recorded: Sequence[Recorded[Any]], events: Sequence[Any], *, or_more: bool) -> Iterator[str]:
    spans = Counter(item.event.span_id for item in recorded)
    yield from (f"{span} is there {count} times" for span, count in spans.items() if count > 1)
    acknowledged = {event.span_id for event in events}
    if missing := acknowledged - spans.keys():
        yield f"{len(missing)} acknowledged events are missing, {min(missing)} is one"
    if not or_more and (strange := spans.keys() - acknowledged):
        yield f"{len(strange)} events are there that nobody was acknowledged, {min(strange)} is one"
    there = [item.event for item in recorded if item.event.span_id in acknowledged]
    for lane_id in {event.lane_id for event in events}:
        if _of_lane(lane_id, there) != _of_lane(lane_id, events):
            yield f"lane {lane_id!r} is not what was acknowledged, or not in order"


def _of_lane(lane_id: str, events: Iterable[Any]) -> list[Any]:
    return [event for event in events if event.lane_id == lane_id]


# -- against Redis -----------------------------------------------------------------------------------


def check_drained(hot: RedisCheckpointer[Any, Any], archives: Sequence[Archive]) -> None:
    """Fail, with all that is wrong, unless each archive has all that Redis has or had, and nothing is left."""
    faults = list(drained_faults(hot, archives))
    assert not faults, "\n".join(faults)


def drained_faults(hot: RedisCheckpointer[Any, Any], archives: Sequence[Archive]) -> Iterator[str]:
    """What of Redis the archives lack; what is due, parked, quarantined or not marked as archived.

    An archive that ends at the run's last place, chain included, has all that ever was in the run before.
    """
    status = namespace_of(hot).status()
    if status.due or status.later:
        yield f"{status.due} runs are due, and {status.later} later"
    yield from (f"run {run_id!r} is parked: {reason}" for run_id, reason in status.parked.items())
    run_ids = sorted(hot.list_runs())
    for archive in archives:
        yield from (f"{archive.location}: {run_id!r} is in the quarantine" for run_id, _ in archive.quarantine())
        if (archived := sorted(archive.list_runs())) != run_ids:
            yield f"{archive.location} has the runs {archived}, Redis has {run_ids}"
    for run_id, run in zip(run_ids, namespace_of(hot).load_runs(run_ids), strict=True):
        assert run is not None, "a run was deleted while its archives were checked"
        if run.head.mark != run.head.last:
            yield f"run {run_id!r} is archived up to {run.head.mark} only, of {run.head.last}"
        for archive in archives:
            for fault in _faults_against(hot, archive, run):
                yield f"{archive.location}, run {run_id!r}: {fault}"


def _faults_against(hot: RedisCheckpointer[Any, Any], archive: Archive, run: HotRun) -> Iterator[str]:
    run_id = run.header.run_id
    if (bounds := bounds_of(archive, run_id)) != (run.header.start, run.head.last):
        yield f"it lies between {bounds}, in Redis between {(run.header.start, run.head.last)}"
    wanted = LoadRequest(run_id, 1, run.head.last.offset, list(run.head.tokens))
    (loaded,) = namespace_of(hot).load_entries([wanted])
    held = {entry.offset: entry.content for entry in archive.read_back(run_id, 1, _EVERYTHING)}
    for (offset, chain), record in loaded.entries:
        if held.get(offset) != archive_entry(run_id, offset, chain, record).content:
            yield f"event {offset} is not the one in Redis"
    snapshots = {snapshot.lane_id: snapshot for snapshot in loaded.snapshots}
    if {snapshot.lane_id: snapshot for snapshot in archive.read_back_snapshots(run_id)} != snapshots:
        yield "its snapshots are not those in Redis"


def bounds_of(archive: Any, run_id: str) -> tuple[Cursor, Cursor] | None:
    """The cursor before a run's first event, and that of its last; None for a run that is not there."""
    head = archive._operations._load_head(run_id)
    return None if head is None else (head.start, head.last)
