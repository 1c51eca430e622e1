"""How the tests look into a SQLite archive, and what they write to it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from purpose_agent.runtime.events import EventKind as ForeignKind
from purpose_agent.runtime.events import PAEvent as ForeignEvent

from runstream.codec.archive_entries import archive_entry
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.events import PAEvent
from runstream.model.results import Cursor
from runstream.model.state import RunState
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from tests.support.samples import make_events

Archive = SQLiteCheckpointer[PAEvent, RunState]
Open = Callable[..., Archive]
CODEC: Codec[PAEvent, RunState] = Codec()
START = Cursor(0, 99)


def query(path: Path, sql: str, *parameters: Any) -> list[Any]:
    """What SQL of the test's own gives, around the store."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(sql, parameters).fetchall()
        connection.commit()
        return rows


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def offsets(archive: Archive, run_id: str = "r", **options: Any) -> list[int]:
    return [item.offset for item in archive.read(run_id, **options)]


class SelfClosing(sqlite3.Connection):
    """A connection that its ``with`` block closes, not only commits."""

    def __exit__(self, *error: object) -> Literal[False]:
        super().__exit__(*error)  # type: ignore[arg-type]  # handed through
        self.close()
        return False


def chained(run_id: str, records: Sequence[bytes], start: Cursor) -> list[ArchiveEntry]:
    """The entries that a drain worker would make of these records."""
    entries, last = [], start
    for record in records:
        last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(record)))
        entries.append(archive_entry(run_id, *last, record))
    return entries


def history(run_id: str, count: int, *, start: Cursor = START, **fields: Any) -> list[ArchiveEntry]:
    events = make_events(run_id, count, **{"ts": 1.5, "span_id": "s", **fields})
    return chained(run_id, [event.record for event in CODEC.encode_events(run_id, events)], start)


def batch_of(run_id: str, entries: Sequence[ArchiveEntry], *, after: Cursor = START, **options: Any) -> RunBatch:
    snapshots = options.pop("snapshots", ())
    header = RunHeader(run_id, options.pop("start", START), **options)
    return RunBatch(header, after, entries, snapshots)


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, warnings being errors; it must end well."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def foreign_event(seq: int, **fields: Any) -> Any:
    return ForeignEvent("r", **{"seq": seq, "session_id": "s", "kind": ForeignKind.TOOL_RESULT, **fields})
