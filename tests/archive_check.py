"""The one checker of archives: P8, each acknowledged event exactly once, in order, under the chain it was given.

Every test of a fault of the drain ends here, whatever was killed in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from runstream import JSONLCheckpointer, Recorded, SQLiteCheckpointer
from runstream.codec.archiving import entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.codec.shapes import Codec
from runstream.model.archive import ArchiveEntry
from runstream.model.values import Cursor

__all__ = ["Archive", "archive_faults", "check_archives"]

Archive: TypeAlias = SQLiteCheckpointer[Any, Any] | JSONLCheckpointer[Any, Any]


class _Fields(NamedTuple):
    """An event's fields in the shape that a codec takes."""

    fields: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.fields


def check_archives(archives: Sequence[Archive], acknowledged: dict[str, list[Any]], **options: Any) -> None:
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
    archive: Archive, run_id: str, events: Sequence[Any], *, or_more: bool = False, kept_aside: int = 0
) -> Iterator[str]:
    """What is wrong with an archive's history of a run: nothing, if it holds just these events.

    ``or_more``: events whose reply was lost may be there too, once each. ``kept_aside``: so many records
    do not read, and are in the quarantine.
    """
    position = archive.position(run_id)
    if position is None:
        if events:
            yield "it is not there"
        return
    entries = list(archive.read_back(run_id, 1, position.cursor.offset))
    bounds = archive._bounds(run_id)
    assert bounds is not None
    yield from _faults_of_chain(run_id, entries, bounds[0], position.cursor)
    aside = [entry for entry in entries if entry.raw is not None]
    if len(aside) != kept_aside:
        yield f"{len(aside)} records are kept aside, not {kept_aside}"
    recorded = list(archive.read(run_id, on_corrupt="skip"))
    yield from _faults_of_events(recorded, events, or_more=or_more)


def _faults_of_chain(run_id: str, entries: Sequence[ArchiveEntry], start: Cursor, last: Cursor) -> Iterator[str]:
    """Offsets are dense; every chain follows from the one before and from what the entry itself holds."""
    codec: Codec[Any, Any] = Codec()
    former = start
    for entry in entries:
        if entry.offset != former.offset + 1:
            yield f"{former.offset} is followed by {entry.offset}"
        elif entry.chain != next_chain(former.chain, _crc_of(codec, run_id, entry)):
            yield f"the chain breaks at {entry.offset}"
        former = entry.cursor
    if former != last:
        yield f"it ends at {former}, and says that it ends at {last}"


def _crc_of(codec: Codec[Any, Any], run_id: str, entry: ArchiveEntry) -> int:
    if entry.raw is not None:
        return record_crc(entry.raw)
    fields = entry_fields(run_id, entry)
    assert fields is not None, "nothing here erases"
    (encoded,) = codec.encode_events(run_id, [_Fields(fields)], None if entry.key is None else [entry.key])
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
