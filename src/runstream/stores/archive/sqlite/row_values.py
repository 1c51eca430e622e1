"""Turn the rows of a SQLite archive into values, whatever a damaged file or another program has put in a column.

SQLite keeps any value in any column. One of another type than the schema says spoils its own row and no other: a
damaged entry is given as one that does not read, and a damaged head of a run or of a snapshot is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import getsizeof
from typing import Any

from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import CorruptRecordError
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead, SnapshotHead

__all__ = ["aside_in", "cursor_in", "entry_in", "head_in", "is_count", "size_in", "snapshot_head_in"]

_MOST = 2**53  # an offset or a revision is a whole number that Lua's doubles hold
_HEAD_COLUMNS = (
    *("start_offset", "start_chain", "last_offset", "last_chain", "status", "session_id", "created_at"),
    *("updated_at", "parent_run_id", "parent_offset"),
)


def is_count(value: Any) -> bool:
    """Whether a column holds an offset, a chain or a revision.

    Args:
        value: What it holds.
    """
    return type(value) is int and 0 <= value <= _MOST


def entry_in(row: Sequence[Any]) -> ArchiveEntry:
    """The entry in a row of an event, or of a record that was kept aside: the first fields of an ArchiveEntry.

    Args:
        row: Offset, chain, key and text; of a record that was kept aside, also its bytes, the reason and the time.

    Returns:
        The entry; one that does not read, with what is left of it as its bytes, where a column is damaged.
    """
    if len(row) > 4:
        return aside_in(row[0], row[1], row[2], *row[4:7])
    offset, chain, key, data = row
    if type(chain) is int and (data is None or type(data) is str) and (key is None or type(key) is str):
        return ArchiveEntry(offset, chain, key, data)
    columns = (("chain", type(chain) is int), ("key", key is None or type(key) is str))
    damaged = next((name for name, is_sound in columns if not is_sound), "data")
    sound_chain, sound_key = (chain if type(chain) is int else 0), (key if type(key) is str else None)
    return ArchiveEntry(offset, sound_chain, sound_key, None, _bytes_in(data), f"its column {damaged} was damaged")


def size_in(row: Sequence[Any]) -> int:
    """What Python holds in bytes for the text of an event, or for the bytes of a record that was kept aside.

    Args:
        row: As for ``entry_in``.
    """
    return getsizeof(row[4] if len(row) > 4 else row[3])


def aside_in(offset: int, chain: Any, key: Any, raw: Any, reason: Any, at: Any) -> ArchiveEntry:
    """The entry in a row of the quarantine.

    Args:
        offset: The record's offset.
        chain: The chain up to there.
        key: The caller's key, or None.
        raw: The record's bytes.
        reason: Why it does not read.
        at: When it was kept aside: Unix time in seconds.

    Returns:
        The entry, without what is damaged.
    """
    return ArchiveEntry(
        offset,
        chain if type(chain) is int else 0,
        key if type(key) is str else None,
        None,
        _bytes_in(raw),
        reason if type(reason) is str else _bytes_in(reason).decode(errors="backslashreplace"),
        float(at) if type(at) in (int, float) else 0.0,
    )


def head_in(row: Sequence[Any]) -> tuple[str, RunHead]:
    """The run and its head in a row of the table of runs.

    Args:
        row: The run id, then start, last, status, session, times and parent, as they are selected.

    Returns:
        The run's id, and its head without its snapshots.

    Raises:
        CorruptRecordError: A column is damaged.
    """
    run_id, start_offset, start_chain, last_offset, last_chain, status, session_id, created, updated, *of = row
    are_sound = (
        *map(is_count, (start_offset, start_chain, last_offset, last_chain)),
        *(type(text) is str for text in (status, session_id)),
        *(type(time) in (int, float) for time in (created, updated)),
        *((of[0] is None or type(of[0]) is str), (of[0] is None or is_count(of[1]))),
    )
    if not all(are_sound):
        column = _HEAD_COLUMNS[are_sound.index(False)]
        raise _damaged(run_id, 0, f"the row of run {run_id!r:.600}", column)
    return run_id, RunHead(
        Cursor(start_offset, start_chain),
        Cursor(last_offset, last_chain),
        status=status,
        session_id=session_id,
        created_at=created,
        updated_at=updated,
        parent=None if of[0] is None else (of[0], of[1]),
    )


def cursor_in(run_id: str, offset: Any, chain: Any) -> Cursor:
    """The cursor in the columns of an entry.

    Args:
        run_id: The run.
        offset: The entry's offset.
        chain: The chain up to there.

    Raises:
        CorruptRecordError: A column is damaged.
    """
    if not is_count(offset) or type(chain) is not int:
        known = offset if is_count(offset) else 0
        raise _damaged(run_id, known, f"event {offset!r:.80} of run {run_id!r}", "chain")
    return Cursor(offset, chain)


def snapshot_head_in(run_id: str, lane_id: Any, offset: Any, revision: Any, token: Any) -> SnapshotHead:
    """The head of a snapshot in its columns.

    Args:
        run_id: The run.
        lane_id: The lane; None: the run's own snapshot.
        offset: The offset that it covers.
        revision: How many times one was saved.
        token: Names this very snapshot.

    Raises:
        CorruptRecordError: A column is damaged.
    """
    are_sound = {
        "lane_id": lane_id is None or type(lane_id) is str,
        "offset": is_count(offset),
        "revision": is_count(revision),
        "token": type(token) is str,
    }
    for column, is_sound in are_sound.items():
        if not is_sound:
            raise _damaged(run_id, offset if is_count(offset) else 0, f"a snapshot of run {run_id!r}", column)
    return SnapshotHead(lane_id, offset, revision, token)


def _bytes_in(value: Any) -> bytes:
    """What is left in a column, as bytes."""
    if isinstance(value, bytes):
        return value
    return b"" if value is None else str(value).encode(errors="surrogatepass")


def _damaged(run_id: Any, offset: int, what: str, column: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"{what} does not read: its column {column} was damaged; restore the file from a copy; no other run is"
        " affected",
        run_id=run_id if isinstance(run_id, str) else "",
        offset=offset,
    )
