"""Prove what an archive has of a run by itself: each record, made again from what it holds, gives its chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runstream.codec.archive_entries import entry_record
from runstream.codec.chain import next_chain
from runstream.codec.record import ERASED, is_sound, record_crc
from runstream.history.archived import ArchivedHistory
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.results import Cursor
from runstream.model.run_head import written_as
from runstream.repair.branches import origins_of

__all__ = ["proven_records"]


def proven_records(
    history: ArchivedHistory, before: Cursor, entries: Iterable[ArchiveEntry]
) -> Iterator[tuple[Cursor, bytes]]:
    """The wire records of entries, each shown to be the one that its chain was made from.

    Args:
        history: The history that they are in.
        before: The cursor before the first of them.
        entries: The entries, in order. One that was erased, or damaged before it was archived, has nothing left to
            be shown.

    Yields:
        The cursor of each, and its record.

    Raises:
        CorruptRecordError: The text of one does not read, or is of another event; those before it are given first.
    """
    origins = origins_of(history)
    for entry in entries:
        name = written_as(history.run_id, origins, entry.offset)
        yield entry.cursor, _proven_record(history, before, entry, name)
        before = entry.cursor


def _proven_record(history: ArchivedHistory, before: Cursor, entry: ArchiveEntry, name: str) -> bytes:
    run_id, reason = history.run_id, "what is there does not give the chain that it has"
    try:
        record = entry_record(run_id, entry, name)
        # one that was damaged before it was noted in the quarantine may have lost its checksum
        is_mute = record == ERASED or (entry.quarantined_at > 0 and not is_sound(name, record))
        if is_mute or next_chain(before.chain, record_crc(record)) == entry.chain:
            return record
    except RunstreamError as error:
        reason = str(error)
    raise CorruptRecordError(
        f"{history.location} does not prove event {entry.offset} of run {run_id!r}: {reason}; nothing was changed:"
        " see what `runstream verify` says, and take another archive",
        run_id=run_id,
        offset=entry.offset,
        raw=entry.raw if entry.raw is not None else (entry.data or "").encode(),
    )
