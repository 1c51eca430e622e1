"""Prove an archive's entries by themselves: each record, made again, must give the chain that the entry has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from sys import getsizeof

from runstream.codec.archive_entries import entry_record, unread
from runstream.codec.chain import next_chain
from runstream.codec.pages import PAGE_BYTES
from runstream.codec.record import ERASED, record_crc
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.results import Cursor

__all__ = ["errors_in", "missing", "pages_of"]

_PAGE = 1000  # entries


def pages_of(entries: Iterable[ArchiveEntry]) -> Iterator[list[ArchiveEntry]]:
    """The entries in pages, each of at most 1,000 of them and of ``PAGE_BYTES``, or of one."""
    page: list[ArchiveEntry] = []
    room = PAGE_BYTES
    for entry in entries:
        page.append(entry)
        room -= getsizeof(entry.data) + getsizeof(entry.raw)
        if room <= 0 or len(page) == _PAGE:
            yield page
            page, room = [], PAGE_BYTES
    if page:
        yield page


def errors_in(
    run_id: str, names: Collection[str], before: Cursor, entries: Sequence[ArchiveEntry]
) -> Iterator[CorruptRecordError]:
    """What is wrong with entries by themselves, and by their chain.

    Args:
        run_id: The run.
        names: The runs as which their records may have been made: this one, and the one that it is a branch of.
        before: The cursor before the first of them.
        entries: The entries, in order.
    """
    for entry in entries:
        if entry.offset != before.offset + 1:
            yield missing(run_id, before.offset + 1)
        elif entry.is_damaged:
            yield unread(run_id, entry, entry.reason)
        elif not any(_gives_chain(run_id, name, before, entry) for name in names):
            yield unread(run_id, entry, "what is there does not give the chain that it has")
        before = entry.cursor


def _gives_chain(run_id: str, name: str, before: Cursor, entry: ArchiveEntry) -> bool:
    try:
        record = entry_record(run_id, entry, name)
    except (RunstreamError, ValueError):
        return False
    return record == ERASED or next_chain(before.chain, record_crc(record)) == entry.chain


def missing(run_id: str, offset: int) -> CorruptRecordError:
    """The error for an offset at which there is nothing."""
    return CorruptRecordError(
        f"event {offset} of run {run_id!r} is not there: restore the archive from a copy",
        run_id=run_id,
        offset=offset,
    )
