"""Retry the records in quarantine: those that this version reads go back to their offsets in the history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runstream.codec.archive_entries import archive_entry, entry_fields
from runstream.codec.lossless_json import dump_json
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
    the event that it holds is in the history. A branch's records were written under the name of its parent.

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
    record = entry.raw or b""
    try:
        found = archive_entry(run_id, *entry.cursor, record)
        header = archive.header(run_id)
        if found.data is None and header is not None and header.parent is not None:
            parent = archive_entry(header.parent[0], *entry.cursor, record)
            fields = None if parent.data is None else entry_fields(header.parent[0], parent)
            if fields is not None:
                return parent._replace(data=dump_json({**fields, "run_id": run_id}))
    except UnsupportedVersion as error:
        return entry._replace(reason=str(error))
    return found
