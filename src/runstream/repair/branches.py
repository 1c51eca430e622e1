"""Keep a branch of a run under a name of its own, in every archive, and prove that it is there.

A branch is a run like any other: its events name it as theirs, so that every reader reads it. Their places
are those that they had: offsets and chains stay what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from runstream.codec.lossless_json import dump_json, load_json
from runstream.drain.readback import disproof
from runstream.history.hot import PAGE, History
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunBatch
from runstream.model.errors import StoreUnavailable
from runstream.model.identifiers import MAX_NAME_BYTES
from runstream.model.protocols import MendableSink
from runstream.model.results import Cursor

__all__ = ["branch_name", "keep_branch"]


def branch_name(run_id: str, last: Cursor) -> str:
    """The name of the branch of a run that ends there: ``RUN~OFFSET-CHAIN``. Of a very long RUN, its beginning."""
    ending = f"~{last}"
    room = MAX_NAME_BYTES - len(ending)
    return run_id.encode()[:room].decode(errors="ignore") + ending


def keep_branch(sinks: Sequence[MendableSink], history: History, start: Cursor) -> str:
    """Write what a history has after ``start``, and its snapshots, into every archive; the name that it has there.

    Returns when each archive holds it durably, and what it holds, read back, was compared. What is there already
    is passed over, so the same call may be repeated. Raises StoreUnavailable for an archive that does not hold
    what it was given.
    """
    name = branch_name(history.run_id, history.last)
    header = replace(history.header, run_id=name, start=start, parent=(history.run_id, start.offset))
    snapshots = [_renamed_snapshot(one, name) for one in history.snapshots()]
    entries = (_renamed(entry, name) for entry in history.entries(start.offset))
    after = start
    while page := list(islice(entries, PAGE)):
        _write(sinks, RunBatch(header, after, page))
        after = page[-1].cursor
    _write(sinks, RunBatch(header, after, (), snapshots))
    return name


def _write(sinks: Sequence[MendableSink], batch: RunBatch) -> None:
    for sink in sinks:
        sink.write([batch])
        wrong = disproof(sink, batch.header.run_id, batch.entries, batch.snapshots)
        if wrong is not None:
            raise StoreUnavailable(f"the branch is not kept: {wrong}; nothing was given up, repeat the command")


def _renamed(entry: ArchiveEntry, name: str) -> ArchiveEntry:
    if entry.data is None:
        return entry
    return entry._replace(data=_with_run_id(entry.data, name))


def _renamed_snapshot(snapshot: ArchiveSnapshot, name: str) -> ArchiveSnapshot:
    return snapshot._replace(data=_with_run_id(snapshot.data, name))


def _with_run_id(text: str, name: str) -> str:
    """The same JSON object with another run id, if it has one. What does not read stays as it is."""
    try:
        fields: Any = load_json(text)
    except ValueError:
        return text
    if not isinstance(fields, dict) or "run_id" not in fields:
        return text
    return dump_json({**fields, "run_id": name})
