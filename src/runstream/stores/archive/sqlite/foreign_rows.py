"""Adopt what purpose-agent did to the file: give its rows offsets and chains, note its runs, and what it deleted.

A run's rows get offsets after what it has, in the order of their ids; one that does not read goes to the
quarantine. A run that came by a drain is left as it is: its next offsets are Redis's to give. Each function is one
step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.foreign_json import encode_foreign_event, load_foreign_json
from runstream.codec.lossless_json import dump_json
from runstream.codec.record import record_crc
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.results import Cursor
from runstream.model.state import status_after
from runstream.stores.archive.sqlite.deletion import delete_rest
from runstream.stores.archive.sqlite.queries import keep_aside, load_head, save_heads, save_lanes
from runstream.stores.archive.sqlite.row_checksums import entry_checksum, run_seed, snapshot_checksums
from runstream.stores.local.append_plan import new_head

__all__ = ["adopt_all", "is_behind"]

_PAGE_ROWS = 1000
# INDEXED BY: SQLite would rather go through all rows. By leaps from one run to the next
_GET_OWNERS = """WITH RECURSIVE owners (run_id) AS (
        SELECT min(run_id) FROM events INDEXED BY foreign_events WHERE offset IS NULL
        UNION ALL
        SELECT (SELECT min(run_id) FROM events INDEXED BY foreign_events
                WHERE offset IS NULL AND run_id > owners.run_id) FROM owners
        WHERE owners.run_id IS NOT NULL
    ) SELECT run_id FROM owners WHERE run_id IS NOT NULL AND run_id NOT IN (SELECT run_id FROM drained)"""
_GET_STATE_OWNERS = """SELECT run_id FROM snapshots INDEXED BY foreign_snapshots
    WHERE token IS NULL AND run_id NOT IN (SELECT run_id FROM drained)"""
# all of purpose-agent's two tables, as its delete_run does it
_GET_DELETED = """SELECT run_id FROM losses
    WHERE run_id NOT IN (SELECT run_id FROM drained)
    AND NOT EXISTS (SELECT 1 FROM events WHERE run_id = losses.run_id AND offset IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM snapshots WHERE run_id = losses.run_id AND token IS NOT NULL)"""
# each by itself: what is damaged in the file is not read for what has nothing to do with it
_ARE_THERE = ("SELECT 1 FROM losses", _GET_OWNERS, _GET_STATE_OWNERS)

_GET_FOREIGN_EVENTS = """SELECT id, CAST(data AS BLOB), coalesce(created_at, 0.0) FROM events
    WHERE run_id = ? AND offset IS NULL ORDER BY id LIMIT ?"""
_ADOPT_EVENT = "UPDATE events SET offset = ?, chain = ?, data = ?, checksum = ? WHERE id = ?"
_REMOVE_EVENT = "DELETE FROM events WHERE id = ?"
_GET_FOREIGN_SNAPSHOT = """SELECT CAST(state AS BLOB), coalesce(updated_at, 0.0) FROM snapshots
    WHERE run_id = ? AND token IS NULL"""
_ADOPT_SNAPSHOT = """UPDATE snapshots SET offset = 0, state = coalesce(:state, state),
    revision = (SELECT coalesce(max(revision), 0) + 1 FROM snapshot_history
                WHERE run_id = :run_id AND lane_id IS NULL),
    token = printf('foreign-%.6f', updated_at) WHERE run_id = :run_id"""
_GET_ADOPTED = "SELECT NULL, offset, revision, token FROM snapshots WHERE run_id = ?"
_ADD_CHECKSUMS = "UPDATE snapshots SET checksum = ?, state_checksum = ? WHERE run_id = ?"

# JSON text with this in it could hold something that looks like one of our tags
_TAG_MARK = '"$'


def _load_foreign(data: bytes) -> tuple[dict[str, Any], str]:
    """The fields, and the text that has them in our own JSON: the same unless it could hold a tag of ours.

    Raises ValueError for what does not read.
    """
    text = data.decode()
    fields = load_foreign_json(text)
    return fields, dump_json(fields) if _TAG_MARK in text else text


def is_behind(connection: sqlite3.Connection) -> bool:
    """Whether there is anything to adopt."""
    lost, *added = (connection.execute(query).fetchone() is not None for query in _ARE_THERE)
    return any(added) or (lost and connection.execute(_GET_DELETED).fetchone() is not None)


def adopt_all(connection: sqlite3.Connection) -> None:
    """Adopt all that is in the file, but for a run whose own row is damaged."""
    now = time.time()
    for run_id in _run_ids(connection, _GET_DELETED):
        delete_rest(connection, now, run_id)
    for run_id in _run_ids(connection, _GET_OWNERS):
        with suppress(CorruptRecordError):  # raised to whoever asks for that run, and told by check_integrity
            while rows := connection.execute(_GET_FOREIGN_EVENTS, (run_id, _PAGE_ROWS)).fetchall():
                _adopt_events(connection, run_id, rows)
    for run_id in _run_ids(connection, _GET_STATE_OWNERS):
        with suppress(CorruptRecordError):
            _adopt_snapshot(connection, run_id)


def _run_ids(connection: sqlite3.Connection, query: str) -> Iterator[str]:
    """The runs that a query finds; what is no text is no run's."""
    return (run_id for (run_id,) in connection.execute(query).fetchall() if isinstance(run_id, str))


def _adopt_events(connection: sqlite3.Connection, run_id: str, rows: list[tuple[int, bytes, float]]) -> None:
    """Give these rows (id, data, time of writing) of one run their offsets after what it has."""
    head = load_head(connection, run_id) or new_head(rows[0][2])
    last, adopted, aside, encoded = head.last, [], [], []
    lanes: dict[str, int] = {}
    for row_id, data, created_at in rows:
        try:
            fields, text = _load_foreign(data)
            event = encode_foreign_event(run_id, fields)
        except (ValueError, RunstreamError) as error:
            # as for a record in Redis that does not read: the chain goes on with the checksum of its bytes
            last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(data)))
            aside.append((row_id, (run_id, *last, None, data, str(error), float(created_at))))
            continue
        last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(event.record)))
        adopted.append((*last, text, entry_checksum(run_seed(run_id), *last, None, text), row_id))
        encoded.append(event)
        lanes[event.lane_id] = last.offset
    connection.executemany(_ADOPT_EVENT, adopted)
    keep_aside(connection, [values for _, values in aside])
    connection.executemany(_REMOVE_EVENT, [(row_id,) for row_id, _ in aside])
    save_lanes(connection, [(run_id, lane_id, offset) for lane_id, offset in lanes.items()])
    head = replace(
        head,
        last=last,
        status=status_after(event.kind for event in encoded) or head.status,
        session_id=head.session_id or next((event.session_id for event in encoded if event.session_id), ""),
        updated_at=max(head.updated_at, rows[-1][2]),
    )
    save_heads(connection, {run_id: head})


def _adopt_snapshot(connection: sqlite3.Connection, run_id: str) -> None:
    """Give the run's state, which has no token, its own, and note what it says of the run."""
    codec: Codec[Any, Any] = Codec()
    head = load_head(connection, run_id)
    state, updated_at = connection.execute(_GET_FOREIGN_SNAPSHOT, (run_id,)).fetchone()
    fields: dict[str, Any] = {}
    text = None
    with suppress(ValueError):  # left as it is, and reported to whoever loads it
        fields, text = _load_foreign(state)
    connection.execute(_ADOPT_SNAPSHOT, {"run_id": run_id, "state": text})
    if text is not None:
        noted = connection.execute(_GET_ADOPTED, (run_id,)).fetchone()
        connection.execute(_ADD_CHECKSUMS, (*snapshot_checksums(run_id, (*noted, text)), run_id))
    head = head or new_head(updated_at)
    session_id = fields.get("session_id")
    if not head.session_id and isinstance(session_id, str):
        head = replace(head, session_id=session_id)
    if updated_at >= head.updated_at:  # no event came after it: it is the run's last word
        head = replace(head, status=codec.status_of(fields) or head.status, updated_at=updated_at)
    save_heads(connection, {run_id: head})
