"""Retry the records in quarantine: those that this version reads go back to their offsets in the history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runstream.codec.archive_entries import archive_entry, renamed
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import UnsupportedVersion
from runstream.model.protocols import Sink
from runstream.stores.capabilities import Archive, archive_of

__all__ = ["Retried", "retry"]


class Retried(NamedTuple):
    """A record that was decoded again; ``reason`` is why it still does not read, '' if it was readmitted."""

    run_id: str
    offset: int
    reason: str


def retry(sink: Sink, run_id: str | None = None, offset: int | None = None) -> Iterator[Retried]:
    """Decode the records in quarantine again.

    What reads now is an event of its run again, at the offset that it always had. A raw record goes only when
    the event that it holds is in the history. A branch's records were made as its parent's, copied ones as those
    of the run that they were copied from.

    Args:
        sink: The archive.
        run_id: Only the records of this run; None: of all.
        offset: Only the record at this offset.
    """
    archive = archive_of(sink)
    # listed first: readmitting changes what is listed
    for owner, at in [(owner, entry.offset) for owner, entry in archive.quarantine(run_id)]:
        if offset is not None and at != offset:
            continue
        for entry in archive.read_back(owner, at, at):
            found = _decode(archive, owner, entry)
            if found.data is None:
                yield Retried(owner, at, found.reason or entry.reason)
            elif archive.readmit(owner, found):
                yield Retried(owner, at, "")


def _decode(archive: Archive, run_id: str, entry: ArchiveEntry) -> ArchiveEntry:
    """The entry as this version reads it."""
    header, names = archive.header(run_id), [run_id]
    if header is not None:
        names = [header.written_as(entry.offset), *([] if header.parent is None else [header.parent[0]])]
    try:
        for name in names:
            found = archive_entry(name, *entry.cursor, entry.raw or b"")
            if found.data is not None:
                break
    except UnsupportedVersion as error:
        return entry._replace(reason=str(error))
    return renamed(found, run_id)
