"""Try again what was kept aside: what this version reads goes back to its place in the history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runstream.codec.archive_entries import archive_entry, entry_fields
from runstream.codec.lossless_json import dump_json
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import UnsupportedVersion
from runstream.model.protocols import MendableSink

__all__ = ["Retried", "retry"]


class Retried(NamedTuple):
    """A record that was tried again; ``reason`` is why it still does not read, '' if it has been readmitted."""

    run_id: str
    offset: int
    reason: str


def retry(sink: MendableSink, run_id: str | None = None, offset: int | None = None) -> Iterator[Retried]:
    """Decode the records in quarantine again, of all runs, of one, or the one at an offset of a run.

    What reads now is an event of its run again, at the place that it always had. A raw record goes only when
    the event that it holds has taken its place. A branch's records were written under the name of its parent.
    """
    # listed first: readmitting changes what is listed
    for owner, place in [(owner, entry.offset) for owner, entry in sink.quarantine(run_id)]:
        if offset is not None and place != offset:
            continue
        for entry in sink.read_back(owner, place, place):
            found = _decoded(sink, owner, entry)
            if found.data is None:
                yield Retried(owner, place, found.reason or entry.reason)
            elif sink.readmit(owner, found):
                yield Retried(owner, place, "")


def _decoded(sink: MendableSink, run_id: str, entry: ArchiveEntry) -> ArchiveEntry:
    """The entry as this version reads it."""
    record = entry.raw or b""
    try:
        found = archive_entry(run_id, *entry.cursor, record)
        header = sink.header(run_id)
        if found.data is None and header is not None and header.parent is not None:
            parent = archive_entry(header.parent[0], *entry.cursor, record)
            fields = None if parent.data is None else entry_fields(run_id, parent)
            if fields is not None:
                return parent._replace(data=dump_json({**fields, "run_id": run_id}))
    except UnsupportedVersion as error:
        return entry._replace(reason=str(error))
    return found
