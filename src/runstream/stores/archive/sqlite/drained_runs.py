"""What another program did to the runs of a SQLite archive that came by a drain, where its rows are not adopted.

A row that was appended through Redis since, by ``runstream import --append``, comes back with a drain, under a key
that names it; then it is removed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence

from runstream.model.archive_records import ForeignEvent, ForeignRows, ForeignState
from runstream.model.identifiers import check_run_id
from runstream.stores.archive.sqlite.connection import ArchiveFile

__all__ = ["DrainedRuns", "note_drained"]

_PAGE_ROWS = 1000
_COUNT_EVENTS = """SELECT run_id, count(*) FROM events INDEXED BY foreign_events
    WHERE offset IS NULL AND run_id IN (SELECT run_id FROM drained) GROUP BY run_id"""
_GET_STATES = """SELECT run_id FROM snapshots INDEXED BY foreign_snapshots
    WHERE token IS NULL AND run_id IN (SELECT run_id FROM drained)"""
_GET_LOSSES = "SELECT run_id FROM losses"
_GET_EVENTS = """SELECT id, CAST(data AS BLOB) FROM events
    WHERE run_id = ? AND offset IS NULL AND id > ? AND run_id IN (SELECT run_id FROM drained)
    ORDER BY id LIMIT ?"""
_GET_STATE = """SELECT CAST(state AS BLOB), coalesce(updated_at, 0.0) FROM snapshots
    WHERE run_id = ? AND token IS NULL AND run_id IN (SELECT run_id FROM drained)"""
_SET_DRAINED = "INSERT OR IGNORE INTO drained (run_id) VALUES (?)"
_HAS_FOREIGN = "SELECT EXISTS (SELECT 1 FROM events WHERE run_id = ? AND offset IS NULL)"
_GET_ADDED = """SELECT key FROM events, archive
    WHERE run_id = ? AND key > 'foreign:' || archive.id || ':' AND key < 'foreign:' || archive.id || ';'"""
_GET_FOREIGN = "SELECT CAST(data AS BLOB) FROM events WHERE run_id = ? AND id = ? AND offset IS NULL"
_REMOVE = "DELETE FROM events WHERE id = ?"


class DrainedRuns:
    """The part of a SQLite archive that tells of another program's rows in runs that came by a drain.

    It implements :class:`~runstream.stores.capabilities.HoldsForeign`.

    Args:
        file: The archive's file.
    """

    def __init__(self, file: ArchiveFile) -> None:
        self._file = file

    def foreign(self) -> Sequence[ForeignRows]:
        """What it did, run by run."""
        counted, states, losses = self._file.rows((_COUNT_EVENTS, _GET_STATES, _GET_LOSSES), {})
        events = dict(counted)
        with_state, with_losses = ({run_id for (run_id,) in found} for found in (states, losses))
        return [
            ForeignRows(run_id, events.get(run_id, 0), run_id in with_state, run_id in with_losses)
            for run_id in sorted(events.keys() | with_state | with_losses)
        ]

    def refused(self) -> Mapping[str, str]:
        """No run is: a file has one place for each."""
        return {}

    def foreign_events(self, run_id: str) -> Iterator[ForeignEvent]:
        """The events that it has added to a run, in the order of writing."""
        check_run_id(run_id)
        rows: list[tuple[int, bytes]] = [(0, b"")]
        while rows:
            with self._file.use() as connection:
                rows = connection.execute(_GET_EVENTS, (run_id, rows[-1][0], _PAGE_ROWS)).fetchall()
            for row_id, data in rows:
                yield ForeignEvent(_key_of(self._file.archive_id, row_id, data), data)

    def foreign_state(self, run_id: str) -> ForeignState | None:
        """The state that it has put in the place of the run's."""
        check_run_id(run_id)
        with self._file.use() as connection:
            row = connection.execute(_GET_STATE, (run_id,)).fetchone()
        return None if row is None else ForeignState(*row)


def note_drained(connection: sqlite3.Connection, run_ids: Collection[str]) -> None:
    """Note that a drain has written to these runs, and remove the rows that it has brought back as their own.

    It is one step within a transaction of its caller.
    """
    connection.executemany(_SET_DRAINED, [(run_id,) for run_id in run_ids])
    for run_id in run_ids:
        if not connection.execute(_HAS_FOREIGN, (run_id,)).fetchone()[0]:
            continue
        for (key,) in connection.execute(_GET_ADDED, (run_id,)).fetchall():
            _, archive_id, row_id, _ = key.split(":")
            row = connection.execute(_GET_FOREIGN, (run_id, int(row_id))).fetchone()
            if row is not None and _key_of(archive_id, int(row_id), row[0]) == key:
                connection.execute(_REMOVE, (int(row_id),))


def _key_of(archive_id: str, row_id: int, data: bytes) -> str:
    """The key of an event in a row. By its content too: a file put back from a copy gives ids out again."""
    return f"foreign:{archive_id}:{row_id}:{hashlib.sha256(data).hexdigest()[:32]}"
