"""Adopt the rows that purpose-agent wrote into the file: give them offsets and chains, and note their runs.

A run's rows get offsets after what it has, in the order of their ids; one that does not read goes to the
quarantine. Each function is one step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.foreign_json import encode_foreign_event, load_foreign_json
from runstream.codec.lossless_json import dump_json
from runstream.codec.record import record_crc
from runstream.model.errors import RunstreamError
from runstream.model.results import Cursor
from runstream.model.state import status_after
from runstream.stores.archive.sqlite.queries import SET_ASIDE, SET_LANE, load_head, save_heads
from runstream.stores.local.append_plan import new_head

__all__ = ["HAS_FOREIGN_ROWS", "adopt_events", "adopt_snapshots"]

_PAGE_ROWS = 1000
_GET_FOREIGN_EVENTS = """SELECT run_id, id, CAST(data AS BLOB), coalesce(created_at, 0.0) FROM events
    WHERE offset IS NULL ORDER BY run_id, id LIMIT ?"""
_ADOPT_EVENT = "UPDATE events SET offset = ?, chain = ?, data = ? WHERE id = ?"
_REMOVE_EVENT = "DELETE FROM events WHERE id = ?"
_GET_FOREIGN_SNAPSHOT = """SELECT run_id, CAST(state AS BLOB), coalesce(updated_at, 0.0) FROM snapshots
    WHERE token IS NULL LIMIT 1"""
_ADOPT_SNAPSHOT = """UPDATE snapshots SET offset = 0, revision = 1, state = coalesce(:state, state),
    token = (SELECT token FROM states WHERE run_id = :run_id AND lane_id IS NULL) WHERE run_id = :run_id"""
# INDEXED BY: SQLite would rather go through all rows
HAS_FOREIGN_ROWS = """SELECT EXISTS (SELECT 1 FROM events INDEXED BY foreign_events WHERE offset IS NULL)
    OR EXISTS (SELECT 1 FROM snapshots INDEXED BY foreign_snapshots WHERE token IS NULL)"""

# JSON text with this in it could hold something that looks like one of our tags
_TAG_MARK = '"$'


def _load_foreign(data: bytes) -> tuple[dict[str, Any], str]:
    """The fields, and the text that has them in our own JSON: the same unless it could hold a tag of ours.

    Raises ValueError for what does not read.
    """
    text = data.decode()
    fields = load_foreign_json(text)
    return fields, dump_json(fields) if _TAG_MARK in text else text


def adopt_events(connection: sqlite3.Connection) -> None:
    """Give every event without an offset its own: all that are in the file."""
    while rows := connection.execute(_GET_FOREIGN_EVENTS, (_PAGE_ROWS,)).fetchall():
        for run_id, group in groupby(rows, key=itemgetter(0)):
            _adopt_run(connection, run_id, [row[1:] for row in group])


def _adopt_run(connection: sqlite3.Connection, run_id: str, rows: list[tuple[int, bytes, float]]) -> None:
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
            aside.append((row_id, (run_id, *last, None, data, str(error), created_at)))
            continue
        last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(event.record)))
        adopted.append((*last, text, row_id))
        encoded.append(event)
        lanes[event.lane_id] = last.offset
    connection.executemany(_ADOPT_EVENT, adopted)
    connection.executemany(SET_ASIDE, [values for _, values in aside])
    connection.executemany(_REMOVE_EVENT, [(row_id,) for row_id, _ in aside])
    connection.executemany(SET_LANE, [(run_id, lane_id, offset) for lane_id, offset in lanes.items()])
    head = replace(
        head,
        last=last,
        status=status_after(event.kind for event in encoded) or head.status,
        session_id=head.session_id or next((event.session_id for event in encoded if event.session_id), ""),
        updated_at=max(head.updated_at, rows[-1][2]),
    )
    save_heads(connection, {run_id: head})


def adopt_snapshots(connection: sqlite3.Connection) -> None:
    """Give every snapshot without a token its own, and note what it says of its run."""
    codec: Codec[Any, Any] = Codec()
    while row := connection.execute(_GET_FOREIGN_SNAPSHOT).fetchone():
        run_id, state, updated_at = row
        fields: dict[str, Any] = {}
        text = None
        with suppress(ValueError):  # left as it is, and reported to whoever loads it
            fields, text = _load_foreign(state)
        connection.execute(_ADOPT_SNAPSHOT, {"run_id": run_id, "state": text})
        head = load_head(connection, run_id) or new_head(updated_at)
        session_id = fields.get("session_id")
        if not head.session_id and isinstance(session_id, str):
            head = replace(head, session_id=session_id)
        if updated_at >= head.updated_at:  # no event came after it: it is the run's last word
            head = replace(head, status=codec.status_of(fields) or head.status, updated_at=updated_at)
        save_heads(connection, {run_id: head})
