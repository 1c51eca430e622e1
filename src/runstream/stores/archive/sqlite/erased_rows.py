"""What a SQLite archive keeps of events that were erased, beside what every entry has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runstream.model.archive_records import ArchiveEntry
from runstream.stores.archive.sqlite.connection import ArchiveFile

__all__ = ["with_lanes"]

_GET = "SELECT seq, lane_id FROM events WHERE run_id = ? AND offset = ?"


def with_lanes(file: ArchiveFile, run_id: str, entries: Iterable[ArchiveEntry]) -> Iterator[ArchiveEntry]:
    """Some entries, those that were erased with the lane and the ``seq`` that they had, where these are known."""
    for entry in entries:
        if entry.data is not None or entry.raw is not None:
            yield entry
            continue
        with file.use() as connection:
            row = connection.execute(_GET, (run_id, entry.offset)).fetchone()
        seq, lane_id = row or (0, "")
        is_known = type(seq) is int and type(lane_id) is str and lane_id
        yield entry._replace(seq=seq, lane_id=lane_id) if is_known else entry
