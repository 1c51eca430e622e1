"""Turn the rows of a SQLite archive into values, whatever a damaged file or another program has put in a column.

SQLite keeps any value in any column. One of another type than the schema says spoils its own row and no other: a
damaged entry is given as one that does not read, and a damaged head of a run or of a snapshot is reported. So is a
row of which the checksum (:mod:`~runstream.stores.archive.sqlite.row_checksums`) does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from runstream.codec.kept_states import text_of_packed
from runstream.codec.lossless_json import load_object
from runstream.codec.msgpack_values import unpack
from runstream.model.archive_records import DAMAGED_ROW, ArchiveEntry
from runstream.model.errors import CorruptRecordError
from runstream.model.results import Cursor
from runstream.model.run_head import Origin, Origins, RunHead, SnapshotHead
from runstream.stores.archive.sqlite.row_checksums import (
    aside_checksum,
    entry_checksum,
    row_checksum,
    run_checksum,
    run_seed,
    text_checksum,
)

__all__ = [
    "LARGE_COLUMN",
    "aside_in",
    "damaged_row",
    "entries_in",
    "entry_in",
    "head_in",
    "is_count",
    "lane_offset_in",
    "origins_text",
    "snapshot_head_in",
    "state_in",
    "text_in",
]

_UNLIKE = "its checksum is of another content"
_EVENT_COLUMNS = 5
LARGE_COLUMN = 3
"""Of the rows for ``entries_in``, the column of what may be large: a text, or the bytes of a record kept aside."""
_MOST = 2**53  # an offset or a revision is a whole number that Lua's doubles hold
_HEAD_COLUMNS = (
    *("start_offset", "start_chain", "last_offset", "last_chain", "status", "session_id", "created_at"),
    *("updated_at", "parent_run_id", "parent_offset", "identity", "parent_identity", "origins"),
)


def is_count(value: Any) -> bool:
    """Whether a column holds an offset, a chain or a revision.

    Args:
        value: What it holds.
    """
    return type(value) is int and 0 <= value <= _MOST


def entries_in(run_id: str, rows: Iterable[Sequence[Any]]) -> Iterator[ArchiveEntry]:
    """The entries in rows of one run, see ``entry_in``.

    Args:
        run_id: The run.
        rows: The rows.
    """
    seed = run_seed(run_id)
    return (aside_in(run_id, *row) if len(row) > _EVENT_COLUMNS else entry_in(seed, *row) for row in rows)


def entry_in(seed: int, offset: int, chain: Any, key: Any, data: Any, checksum: Any) -> ArchiveEntry:
    """The entry in a row of an event: the first fields of an ArchiveEntry.

    Args:
        seed: Where the checksums of the run begin (``run_seed``).
        offset: The event's offset.
        chain: The chain up to there.
        key: The caller's key.
        data: The event's JSON; None for an entry that was erased.
        checksum: The row's checksum; None where an earlier version or another program wrote it.

    Returns:
        The entry; one that does not read, with what is left of it as its bytes, where the row is damaged.
    """
    if type(chain) is int and (data is None or type(data) is str) and (key is None or type(key) is str):
        if checksum is None or checksum == entry_checksum(seed, offset, chain, key, data):
            return ArchiveEntry(offset, chain, key, data)
        return ArchiveEntry(offset, chain, key, None, _bytes_in(data), f"{DAMAGED_ROW}: {_UNLIKE}")
    columns = (("chain", type(chain) is int), ("key", key is None or type(key) is str))
    damaged = next((name for name, is_sound in columns if not is_sound), "data")
    sound_chain, sound_key = (chain if type(chain) is int else 0), (key if type(key) is str else None)
    return ArchiveEntry(
        offset, sound_chain, sound_key, None, _bytes_in(data), f"{DAMAGED_ROW}: its column {damaged}"
    )


def aside_in(
    run_id: Any, offset: int, chain: Any, key: Any, raw: Any, checksum: Any, reason: Any, at: Any
) -> ArchiveEntry:
    """The entry in a row of the quarantine.

    Args:
        run_id: The run.
        offset: The record's offset.
        chain: The chain up to there.
        key: The caller's key, or None.
        raw: The record's bytes.
        checksum: The row's checksum; None where an earlier version wrote it.
        reason: Why it does not read.
        at: When it was kept aside: Unix time in seconds.

    Returns:
        The entry, without what is damaged, and with that as the reason.
    """
    is_sound = (
        (type(chain), type(raw), type(reason), type(at)) == (int, bytes, str, float)
        and (key is None or type(key) is str)
        and (checksum is None or checksum == aside_checksum(run_id, offset, chain, key, raw, reason, at))
    )
    return ArchiveEntry(
        offset,
        chain if type(chain) is int else 0,
        key if type(key) is str else None,
        None,
        _bytes_in(raw),
        reason if is_sound else f"{DAMAGED_ROW}: {_bytes_in(reason).decode(errors='backslashreplace')}",
        at if is_sound else 0.0,
    )


def head_in(row: Sequence[Any]) -> tuple[str, RunHead]:
    """The run and its head in a row of the table of runs.

    Args:
        row: The run id, then start, last, status, session, times, parent, identities, origins, base with its
            checksum, and checksum, as they are selected.

    Returns:
        The run's id, and its head without its snapshots.

    Raises:
        CorruptRecordError: The row is damaged.
    """
    *columns, base_offset, base_chain, base_checksum, checksum = row
    run_id, start_offset, start_chain, last_offset, last_chain, status, session_id, created, updated, *of = columns
    identities, origins = of[2:4], of[4]
    are_sound = (
        *map(is_count, (start_offset, start_chain, last_offset, last_chain)),
        *(type(text) is str for text in (status, session_id)),
        *(type(time) in (int, float) for time in (created, updated)),
        *((of[0] is None or type(of[0]) is str), (of[0] is None or is_count(of[1]))),
        *(identity is None or is_count(identity) for identity in identities),
        origins is None or type(origins) is str,
    )
    if not all(are_sound):
        column = _HEAD_COLUMNS[are_sound.index(False)]
        raise _damaged(run_id, 0, f"the row of run {run_id!r:.600}", f"its column {column} was damaged")
    if checksum != run_checksum(*columns):
        raise _damaged(run_id, 0, f"the row of run {run_id!r:.600}", _UNLIKE)
    if base_checksum not in (None, row_checksum(run_id, base_offset, base_chain)):
        raise _damaged(run_id, 0, f"what is noted of where the history of run {run_id!r:.600} begins", _UNLIKE)
    return run_id, RunHead(
        Cursor(start_offset, start_chain),
        Cursor(last_offset, last_chain),
        status=status,
        session_id=session_id,
        created_at=created,
        updated_at=updated,
        parent=None if of[0] is None else (of[0], of[1]),
        identity=identities[0] or 0,
        parent_identity=identities[1] or 0,
        base=None if base_checksum is None else Cursor(base_offset, base_chain),
        origins=() if origins is None else tuple(Origin(*one) for one in json.loads(origins)),
    )


def origins_text(origins: Origins) -> str | None:
    """What the column ``origins`` of a run holds; None for a run that has none."""
    return json.dumps(origins) if origins else None


def lane_offset_in(run_id: str, lane_id: str, offset: Any, checksum: Any) -> int:
    """The offset of a lane's last event, in the row that notes it.

    Args:
        run_id: The run.
        lane_id: The lane.
        offset: The offset.
        checksum: The row's checksum.

    Raises:
        CorruptRecordError: The row is damaged.
    """
    if not is_count(offset) or checksum != row_checksum(run_id, lane_id, offset):
        raise _damaged(run_id, 0, f"what is noted of lane {lane_id!r:.600} of run {run_id!r:.600}", _UNLIKE)
    return int(offset)


def snapshot_head_in(
    run_id: str, lane_id: Any, offset: Any, revision: Any, token: Any, checksum: Any, text_checksum: Any
) -> SnapshotHead:
    """The head of a snapshot in its columns.

    Args:
        run_id: The run.
        lane_id: The lane; None: the run's own snapshot.
        offset: The offset that it covers.
        revision: How many times one was saved.
        token: Names this very snapshot.
        checksum: The row's checksum; None where an earlier version or another program wrote it.
        text_checksum: The checksum of its text, likewise.

    Raises:
        CorruptRecordError: The row is damaged.
    """
    are_sound = {
        "lane_id": lane_id is None or type(lane_id) is str,
        "offset": is_count(offset),
        "revision": is_count(revision),
        "token": type(token) is str,
    }
    why = next(
        (f"its column {column} was damaged" for column, is_sound in are_sound.items() if not is_sound), None
    )
    if checksum is not None and checksum != row_checksum(run_id, lane_id, offset, revision, token, text_checksum):
        why = why or _UNLIKE
    if why is not None:
        raise _damaged(run_id, offset if is_count(offset) else 0, f"a snapshot of run {run_id!r}", why)
    return SnapshotHead(lane_id, offset, revision, token)


def state_in(run_id: str, offset: int, text: Any, checksum: Any) -> dict[str, Any]:
    """The state in a row of a snapshot.

    Args:
        run_id: The run.
        offset: The offset that it covers.
        text: Its JSON, or its msgpack.
        checksum: The checksum of that; None where an earlier version or another program wrote it.

    Raises:
        CorruptRecordError: It does not read.
    """
    found = _proven(run_id, offset, text, checksum)
    try:
        return load_object(found) if type(text) is str else unpack(found)
    except (ValueError, TypeError) as error:
        raise _unreadable(run_id, offset, text, str(error)) from error


def text_in(run_id: str, offset: int, text: Any, checksum: Any) -> str:
    """The JSON of a state, see ``state_in``.

    Args:
        run_id: The run.
        offset: The offset that it covers.
        text: What its column holds: JSON or msgpack.
        checksum: The checksum of it.

    Raises:
        CorruptRecordError: It was damaged.
    """
    found = _proven(run_id, offset, text, checksum)
    return text if type(text) is str else text_of_packed(found)


def _proven(run_id: str, offset: int, text: Any, checksum: Any) -> bytes:
    """A state's bytes. A text that was damaged is no text any more, and none of that checksum."""
    if type(text) is not str and (type(text) is not bytes or checksum is None):
        raise _unreadable(run_id, offset, text, "its text was damaged")
    # once: it may be large
    found: bytes = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    if checksum is not None and checksum != text_checksum(found):
        raise _unreadable(run_id, offset, text, _UNLIKE if type(text) is str else "its text was damaged")
    return found


def _bytes_in(value: Any) -> bytes:
    """What is left in a column, as bytes."""
    if isinstance(value, bytes):
        return value
    return b"" if value is None else str(value).encode(errors="surrogatepass")


def damaged_row(run_id: str, what: str) -> CorruptRecordError:
    """The error of a row whose checksum does not hold.

    Args:
        run_id: The run.
        what: What the row has, in words.
    """
    return _damaged(run_id, 0, what, _UNLIKE)


def _damaged(run_id: Any, offset: int, what: str, why: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"{what} does not read: {why}; restore the file from a copy; no other run is affected",
        run_id=run_id if isinstance(run_id, str) else "",
        offset=offset,
    )


def _unreadable(run_id: str, offset: int, text: Any, why: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"the snapshot of run {run_id!r} does not read: {why}; save another one",
        run_id=run_id,
        offset=offset,
        raw=_bytes_in(text),
    )
