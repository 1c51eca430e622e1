"""The latest snapshots in a SQLite archive: the view ``latest_states``, the run's own with ``lane_id`` NULL."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from runstream.model.archive_records import ArchiveSnapshot, Position
from runstream.model.errors import CorruptRecordError
from runstream.model.run_head import SnapshotHead
from runstream.stores.archive.sqlite.column_texts import fetched
from runstream.stores.archive.sqlite.erasure_table import load_notes
from runstream.stores.archive.sqlite.queries import load_head
from runstream.stores.archive.sqlite.row_values import snapshot_head_in, state_in, text_in
from runstream.stores.archive.sqlite.tag_table import load_sound_tags

__all__ = ["load_position", "load_state", "read_heads", "read_snapshots", "tokens_of"]

_HEAD = "SELECT lane_id, offset, revision, token, checksum, state_checksum"
_GET_STATE = f"{_HEAD}, state FROM latest_states WHERE run_id = ? AND lane_id IS ?"
_GET_STATES = f"{_HEAD}, state FROM latest_states WHERE run_id = ? ORDER BY lane_id"
_GET_HEAD = f"{_HEAD} FROM latest_states WHERE run_id = ? AND lane_id IS ?"
_GET_HEADS = f"{_HEAD} FROM latest_states WHERE run_id = ?"


def load_state(
    connection: sqlite3.Connection, run_id: str, lane_id: str | None
) -> tuple[SnapshotHead, dict[str, Any]] | None:
    """The latest snapshot of a lane, or (None) of the run itself."""
    row = fetched(connection, lambda: connection.execute(_GET_STATE, (run_id, lane_id)).fetchone())
    if row is None:
        return None
    *columns, text = row
    head = snapshot_head_in(run_id, *columns)
    return head, state_in(run_id, head.offset, text, columns[-1])


def read_snapshots(
    connection: sqlite3.Connection, run_id: str, lanes: Collection[str | None] | None
) -> tuple[list[ArchiveSnapshot], dict[str | None, CorruptRecordError]]:
    """The snapshots of these lanes (None: of all) that read, and why the others do not, by lane."""
    found, broken = [], {}
    for *columns, text in _rows(connection, run_id, lanes, _GET_STATE, _GET_STATES):
        try:
            head = snapshot_head_in(run_id, *columns)
            found.append(ArchiveSnapshot(*head, text_in(run_id, head.offset, text, columns[-1])))
        except CorruptRecordError as error:
            broken[columns[0]] = error
    return found, broken


def load_position(
    connection: sqlite3.Connection, run_id: str, lanes: Collection[str | None] | None
) -> Position | None:
    """How far the file has a run; with the snapshots of these lanes, None: of all."""
    head = load_head(connection, run_id)
    if head is None:
        return None
    tags, count = load_sound_tags(connection, run_id).version, len(load_notes(connection, run_id, head.creation))
    return Position(head.last, tokens_of(connection, run_id, lanes), tags, count)


def tokens_of(
    connection: sqlite3.Connection, run_id: str, lanes: Collection[str | None] | None
) -> dict[str | None, str]:
    """The tokens of the snapshots of these lanes (None: of all), by lane.

    A damaged one is as if it were not there: it is archived again, over the damaged one.
    """
    return {head.lane_id: head.token for head in read_heads(connection, run_id, lanes)}


def read_heads(
    connection: sqlite3.Connection, run_id: str, lanes: Collection[str | None] | None = None
) -> Iterator[SnapshotHead]:
    """The heads of the snapshots of these lanes (None: of all), but for those that are damaged."""
    for row in _rows(connection, run_id, lanes, _GET_HEAD, _GET_HEADS):
        with suppress(CorruptRecordError):
            yield snapshot_head_in(run_id, *row)


def _rows(
    connection: sqlite3.Connection, run_id: str, lanes: Collection[str | None] | None, one: str, all_: str
) -> list[Any]:
    if lanes is None:
        return connection.execute(all_, (run_id,)).fetchall()
    return [row for lane_id in lanes for row in connection.execute(one, (run_id, lane_id))]
