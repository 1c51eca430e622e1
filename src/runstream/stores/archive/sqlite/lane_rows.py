"""The ends of lanes in a SQLite file, and what it notes of all lanes of a run.

Each function is one step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from runstream.codec.archive_entries import seq_of_entry
from runstream.model.run_head import EndedLane
from runstream.operations.lane_facts import LaneFacts
from runstream.stores.archive.sqlite.erased_rows import with_lane
from runstream.stores.archive.sqlite.latest_snapshots import read_heads
from runstream.stores.archive.sqlite.lease_table import in_force
from runstream.stores.archive.sqlite.queries import ASIDE, EVENT
from runstream.stores.archive.sqlite.row_checksums import row_checksum
from runstream.stores.archive.sqlite.row_values import damaged_row, entries_in, is_count, lane_offset_in

__all__ = ["lane_facts", "load_ends", "save_ends", "seq_at"]

# an earlier end comes from a worker that was paused
_SET_END = """INSERT INTO ended_lanes (run_id, lane_id, offset, token, checksum) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (run_id, lane_id) DO UPDATE SET offset = excluded.offset, token = excluded.token,
    checksum = excluded.checksum WHERE excluded.offset >= offset"""
_GET_ENDS = (
    "SELECT lane_id, offset, token, checksum FROM ended_lanes WHERE run_id = ? AND lane_id = ifnull(?, lane_id)"
)
_GET_LASTS = "SELECT lane_id, last_offset, checksum FROM lanes WHERE run_id = ?"
_GET_ENTRY = tuple(f"{columns} WHERE run_id = ? AND offset = ?" for columns in (EVENT, ASIDE))


def save_ends(connection: sqlite3.Connection, ends: Iterable[tuple[str, EndedLane]]) -> None:
    """Note the ends of lanes: the run and the end of each."""
    connection.executemany(_SET_END, [(run_id, *end, row_checksum(run_id, *end)) for run_id, end in ends])


def load_ends(connection: sqlite3.Connection, run_id: str, lane_id: str | None = None) -> Iterator[EndedLane]:
    """The last ends of a run's lanes. Raises CorruptRecordError for a row that is damaged.

    Args:
        connection: The file.
        run_id: The run.
        lane_id: That of this lane alone; None: all.
    """
    for row in connection.execute(_GET_ENDS, (run_id, lane_id)):
        yield _end_in(run_id, *row)


def _end_in(run_id: str, lane_id: Any, offset: Any, token: Any, checksum: Any) -> EndedLane:
    if not is_count(offset) or checksum != row_checksum(run_id, lane_id, offset, token):
        raise damaged_row(run_id, f"the end of lane {lane_id!r} of run {run_id!r}")
    return EndedLane(lane_id, offset, token)


def seq_at(connection: sqlite3.Connection, run_id: str, lane_id: str, offset: int) -> int:
    """The ``seq`` of a lane's last event, which is noted to be at that offset. Raises CorruptRecordError."""
    for query in _GET_ENTRY:
        # not from its column: that is beside what is proven
        for entry in entries_in(run_id, connection.execute(query, (run_id, offset))):
            return seq_of_entry(run_id, with_lane(connection, run_id, entry))
    raise damaged_row(run_id, f"the last event of lane {lane_id!r} of run {run_id!r}, at offset {offset},")


def lane_facts(connection: sqlite3.Connection, now: float, run_id: str) -> LaneFacts:
    """What the file notes of the lanes of a run; ``now`` is Unix time in seconds. Raises CorruptRecordError."""
    lasts = {}
    for lane_id, *noted in connection.execute(_GET_LASTS, (run_id,)).fetchall():
        offset = lane_offset_in(run_id, lane_id, *noted)
        lasts[lane_id] = offset, seq_at(connection, run_id, lane_id, offset)
    return LaneFacts(
        lasts,
        {head.lane_id: head for head in read_heads(connection, run_id)},
        {end.lane_id: end for end in load_ends(connection, run_id)},
        {lane_id: held.owner for lane_id, held in in_force(connection, now, run_id).items()},
    )
