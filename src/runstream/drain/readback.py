"""Proof before trim (P9): compare what an archive holds, read back, with what is in Redis.

Values are compared, by their one packed form, and never texts: of what an archive holds, somebody else may have
written the text. Texts that are equal need no more, and nearly all are: that of an event was shown to give its
record again when it was made (:func:`~runstream.codec.archive_entries.archive_entry`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from operator import eq

from runstream.codec.archive_entries import entry_record
from runstream.codec.stored import same_json
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, contents_of, last_cursor
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.protocols import KeepsTags, Sink, keeps_tags, tells_of_lanes
from runstream.model.results import Cursor
from runstream.model.tags import TagSet

__all__ = ["compare_snapshots", "find_lost", "find_mismatch", "same_content", "same_snapshot"]


def find_mismatch(
    sink: Sink,
    run_id: str,
    entries: Sequence[ArchiveEntry],
    snapshots: Sequence[ArchiveSnapshot],
    tags: TagSet | None = None,
) -> str | None:
    """Find where an archive does not hold these entries, snapshots and tags.

    Args:
        sink: The archive.
        run_id: The run.
        entries: Entries without a gap, made from what is in Redis now, whoever wrote what the archive holds.
        snapshots: Snapshots, likewise.
        tags: The run's tags, likewise; None: they are not asked for.

    Returns:
        What does not match, in words; None if all does.
    """
    if entries:
        last = last_cursor(entries).offset
        first = last - len(entries) + 1
        if not _are_equal(entries, sink.read_back(run_id, first, last)):
            for expected, held in zip_longest(entries, sink.read_back(run_id, first, last)):
                if expected is None:
                    return f"{sink.location} holds an event twice at or before {last}"
                if held is None or not same_content(run_id, expected, held):
                    return f"{sink.location} does not hold event {expected.offset} as Redis does"
    mismatch, _ = compare_snapshots(sink, run_id, snapshots)
    if mismatch is not None:
        return mismatch
    return None if tags is None or not keeps_tags(sink) else _tags_mismatch(sink, run_id, tags)


def compare_snapshots(
    sink: Sink, run_id: str, snapshots: Sequence[ArchiveSnapshot], seen: Mapping[str | None, str] | None = None
) -> tuple[str | None, set[str | None]]:
    """Find where an archive does not hold these snapshots.

    Args:
        sink: The archive.
        run_id: The run.
        snapshots: The snapshots, made from what was in Redis.
        seen: The tokens of those that the archive had before, by lane: of these, none is later.

    Returns:
        What does not match, in words; None if all does. And the lanes of which the archive holds a later one: this
        worker was paused, or the server has lost that one in the meantime. What Redis has by then will say.
    """
    later = set[str | None]()
    if not snapshots:
        return None, later
    try:
        held = {one.lane_id: one for one in _read_back(sink, run_id, snapshots)}
    except CorruptRecordError as error:
        return f"{sink.location} does not hold the snapshots as Redis does: {error}", later
    for snapshot in snapshots:
        lane_id = snapshot.lane_id
        there = held.get(lane_id)
        if there is not None and same_snapshot(snapshot, there):
            continue
        if there is None or there.revision <= snapshot.revision or there.token == (seen or {}).get(lane_id):
            of_lane = "" if lane_id is None else f" of lane {lane_id!r}"
            return f"{sink.location} does not hold snapshot {snapshot.revision}{of_lane} as Redis does", later
        later.add(lane_id)
    return None, later


def _tags_mismatch(sink: KeepsTags, run_id: str, tags: TagSet) -> str | None:
    try:
        held = sink.read_back_tags(run_id)
    except CorruptRecordError as error:
        return f"{sink.location} does not hold the tags as Redis does: {error}"
    return None if held == tags else f"{sink.location} does not hold the tags as Redis does"


def _read_back(sink: Sink, run_id: str, snapshots: Sequence[ArchiveSnapshot]) -> Sequence[ArchiveSnapshot]:
    """What an archive holds in place of these snapshots, and perhaps others."""
    if tells_of_lanes(sink):
        return sink.read_back_lanes(run_id, [one.lane_id for one in snapshots])
    return sink.read_back_snapshots(run_id)


def find_lost(sink: Sink, run_id: str, first: int, end: Cursor) -> str | None:
    """Find where an archive no longer holds entries of a run that it was shown to hold some time ago.

    They are counted, and the last one's chain is compared: what they hold was compared then.

    Args:
        sink: The archive.
        run_id: The run.
        first: The offset of the first one.
        end: The cursor of the last one, as Redis has it.

    Returns:
        What is missing, in words; None if nothing is.
    """
    held = end._replace(offset=first - 1)
    try:
        for entry in sink.read_back(run_id, first, end.offset):
            if entry.offset != held.offset + 1:
                break
            held = entry.cursor
    except CorruptRecordError as error:
        return f"{sink.location} does not hold event {held.offset + 1} any more: {error}"
    if held.offset != end.offset:
        return f"{sink.location} does not hold event {held.offset + 1} any more, which it held"
    if held != end:
        return f"{sink.location} holds event {end.offset} of another history than Redis"
    return None


def _are_equal(entries: Sequence[ArchiveEntry], found: Iterable[ArchiveEntry]) -> bool:
    """Whether both have the same content to the end, as they nearly always do; fast, since it runs in C."""
    end = (object(),)
    return all(map(eq, chain(contents_of(entries), end), chain(contents_of(found), end)))


def same_content(run_id: str, one: ArchiveEntry, other: ArchiveEntry) -> bool:
    """Whether two copies of an entry are of one record, though one may be kept aside as the bytes of it.

    Args:
        run_id: The run.
        one: One copy. Of one that was erased, offset and chain are all there is to compare.
        other: The other copy.
    """
    if one.content == other.content:
        return True
    if one.is_erased:  # erased: the other may not be yet
        return one.cursor == other.cursor
    try:
        return one.cursor == other.cursor and entry_record(run_id, one) == entry_record(run_id, other)
    except RunstreamError:
        return False


def same_snapshot(one: ArchiveSnapshot, other: ArchiveSnapshot) -> bool:
    """Whether two copies of a snapshot agree: in all that is noted of it, and in the state's value.

    Args:
        one: One copy.
        other: The other copy.
    """
    try:
        return one[:-1] == other[:-1] and same_json(one.data, other.data)
    except (RunstreamError, ValueError):
        return False
