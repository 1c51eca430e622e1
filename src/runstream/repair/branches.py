"""Keep the branch of a run that gives way as a run of its own, in every archive, and prove it there.

A branch is a run like any other: its events have its run id, so that every reader reads it. Their offsets and
chains stay what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from runstream.codec.archive_entries import renamed, with_run_id
from runstream.drain.readback import find_mismatch
from runstream.history.base import PAGE, History
from runstream.model.archive_records import ArchiveSnapshot, RunBatch
from runstream.model.errors import StoreUnavailable
from runstream.model.identifiers import MAX_NAME_BYTES
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.model.run_head import Origin, Origins

__all__ = ["branch_name", "keep_branch", "origins_of"]


def branch_name(run_id: str, last: Cursor) -> str:
    """The name of the branch of a run that ends there: ``RUN~OFFSET-CHAIN``; a very long RUN is cut short."""
    ending = f"~{last}"
    room = MAX_NAME_BYTES - len(ending)
    return run_id.encode()[:room].decode(errors="ignore") + ending


def origins_of(history: History) -> Origins:
    """The runs as which a history's records were made; also of a branch of which nobody has noted that."""
    header = history.header
    if not header.origins and header.parent is not None:
        parent = header.parent[0]
        if history.run_id == branch_name(parent, history.last):
            return (Origin(history.last.offset, parent),)
    return header.origins


def keep_branch(sinks: Sequence[Sink], history: History, start: Cursor) -> str:
    """Write what a history has after a cursor, and its snapshots, into every archive, under a name of its own.

    It is durable in each archive, and was compared with what that holds, when this returns. What is there already
    is passed over, so the same call may be repeated.

    Args:
        sinks: The archives.
        history: The history that gives way.
        start: The cursor after which it is the branch's own.

    Returns:
        The branch's name.

    Raises:
        StoreUnavailable: An archive does not hold what it was given.
    """
    name = branch_name(history.run_id, history.last)
    base = history.header.base if history.header.before_first.offset > start.offset else None
    header = replace(
        history.header,
        run_id=name,
        start=start,
        parent=(history.run_id, start.offset),
        base=base,
        identity=0,  # of a fork: the branch is none, it has all of its history itself
        parent_identity=0,
        origins=(*origins_of(history), Origin(history.last.offset, history.run_id)),
    )
    snapshots = [_renamed_snapshot(one, name) for one in history.snapshots()]
    entries = (renamed(entry, name) for entry in history.entries(start.offset))
    after = header.before_first
    while page := list(islice(entries, PAGE)):
        _write(sinks, RunBatch(header, after, page))
        after = page[-1].cursor
    _write(sinks, RunBatch(header, after, (), snapshots))
    return name


def _write(sinks: Sequence[Sink], batch: RunBatch) -> None:
    for sink in sinks:
        sink.write([batch])
        mismatch = find_mismatch(sink, batch.header.run_id, batch.entries, batch.snapshots, batch.header.tags)
        if mismatch is not None:
            raise StoreUnavailable(f"the branch is not kept: {mismatch}; nothing was given up, repeat the command")


def _renamed_snapshot(snapshot: ArchiveSnapshot, name: str) -> ArchiveSnapshot:
    return snapshot._replace(data=with_run_id(snapshot.data, name))
