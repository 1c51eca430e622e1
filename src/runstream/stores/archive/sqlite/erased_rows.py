"""What a SQLite archive keeps of events that were erased, beside what every entry has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from runstream.model.archive_records import ArchiveEntry
from runstream.stores.archive.sqlite.connection import ArchiveFile

__all__ = ["with_lane", "with_lanes"]

_GET = "SELECT seq, lane_id FROM events WHERE run_id = ? AND offset = ?"


def with_lanes(file: ArchiveFile, run_id: str, entries: Iterable[ArchiveEntry]) -> Iterator[ArchiveEntry]:
    """Some entries, those that were erased with the lane and the ``seq`` that they had, where these are known."""
    for entry in entries:
        yield _with_lane(file, run_id, entry) if entry.is_erased else entry


def _with_lane(file: ArchiveFile, run_id: str, entry: ArchiveEntry) -> ArchiveEntry:
    with file.use() as connection:  # not while the caller has the entry, who may go on in another thread
        return with_lane(connection, run_id, entry)


def with_lane(connection: sqlite3.Connection, run_id: str, entry: ArchiveEntry) -> ArchiveEntry:
    """An entry; one that was erased with the lane and the ``seq`` that it had, where these are known."""
    if not entry.is_erased:
        return entry
    seq, lane_id = connection.execute(_GET, (run_id, entry.offset)).fetchone() or (0, "")
    is_known = type(seq) is int and type(lane_id) is str and lane_id
    return entry._replace(seq=seq, lane_id=lane_id) if is_known else entry
