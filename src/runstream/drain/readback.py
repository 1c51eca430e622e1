"""Proof before trim (P9): compare what an archive holds, read back, with what is in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from operator import eq

from runstream.codec.archive_entries import entry_fields
from runstream.codec.stored import STORED_PACKER
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, contents_of
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.protocols import Sink

__all__ = ["find_mismatch", "same_content"]


def find_mismatch(
    sink: Sink, run_id: str, entries: Sequence[ArchiveEntry], snapshots: Sequence[ArchiveSnapshot]
) -> str | None:
    """Find where an archive does not hold these entries and snapshots.

    Args:
        sink: The archive.
        run_id: The run.
        entries: Entries without a gap, made from what is in Redis now, whoever wrote what the archive holds.
        snapshots: Snapshots, likewise.

    Returns:
        What does not match, in words; None if all does.
    """
    if entries:
        first, last = entries[0].offset, entries[-1].offset
        if not _are_equal(entries, sink.read_back(run_id, first, last)):
            for expected, held in zip_longest(entries, sink.read_back(run_id, first, last)):
                if expected is None:
                    return f"{sink.location} holds an event twice at or before {last}"
                if held is None or not same_content(run_id, expected, held):
                    return f"{sink.location} does not hold event {expected.offset} as Redis does"
    if snapshots:
        # a later one than ours is there when this worker was paused: Redis will say which it is to be
        try:
            held_snapshots = {snapshot.lane_id: snapshot for snapshot in sink.read_back_snapshots(run_id)}
        except CorruptRecordError as error:
            return f"{sink.location} does not hold the snapshots as Redis does: {error}"
        for snapshot in snapshots:
            held_snapshot = held_snapshots.get(snapshot.lane_id)
            if held_snapshot != snapshot and (
                held_snapshot is None or held_snapshot.revision <= snapshot.revision
            ):
                of_lane = "" if snapshot.lane_id is None else f" of lane {snapshot.lane_id!r}"
                return f"{sink.location} does not hold snapshot {snapshot.revision}{of_lane} as Redis does"
    return None


def _are_equal(entries: Sequence[ArchiveEntry], found: Iterable[ArchiveEntry]) -> bool:
    """Whether both have the same content to the end, as they nearly always do; fast, since it runs in C."""
    end = (object(),)
    return all(map(eq, chain(contents_of(entries), end), chain(contents_of(found), end)))


def same_content(run_id: str, expected: ArchiveEntry, held: ArchiveEntry) -> bool:
    """Whether two copies of an entry agree: in their text, or in the values that different texts stand for."""
    if expected.content == held.content:
        return True
    if expected.cursor != held.cursor or expected.key != held.key or expected.raw != held.raw:
        return False
    try:
        return STORED_PACKER.pack(entry_fields(run_id, expected)) == STORED_PACKER.pack(entry_fields(run_id, held))
    except RunstreamError:
        return False
