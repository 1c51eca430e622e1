"""Read a file of langgraph-checkpoint-sqlite, which its sync and its async saver write alike, as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from runstream.integrations.read_only_database import ReadOnlyDatabase, is_database

__all__ = ["CheckpointRow", "ThreadsFile", "WriteRow", "is_threads_file"]

_COLUMNS = {
    "checkpoints": {"thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type", "checkpoint"},
    "writes": {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "value"},
}
_GET_THREADS = """SELECT thread_id FROM checkpoints UNION SELECT thread_id FROM writes ORDER BY thread_id"""
_COUNT = "SELECT (SELECT count(*) FROM checkpoints) + (SELECT count(*) FROM writes)"
# its saver takes the greatest id for the latest checkpoint, whenever that was written
_GET_IDS = """SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = ?
    UNION SELECT checkpoint_ns, checkpoint_id FROM writes WHERE thread_id = ?
    ORDER BY checkpoint_id, checkpoint_ns"""
_GET_CHECKPOINT = """SELECT parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints
    WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"""
_GET_WRITES = """SELECT task_id, {path}, idx, channel, type, value FROM writes
    WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ? ORDER BY rowid"""


class WriteRow(NamedTuple):
    """What a task wrote to one channel."""

    task_id: str
    task_path: str
    number: int
    channel: str
    kind: str
    data: bytes


class CheckpointRow(NamedTuple):
    """What a file has under the id of one checkpoint.

    Attributes:
        namespace: Its checkpoint namespace.
        id: Its id.
        parent: The id of its parent; None: it has none.
        saved: The serializer's name and bytes; None: only something was written after it, and it is not there.
        metadata: Its metadata, as JSON.
        writes: What tasks wrote after it, in the order of the rows.
    """

    namespace: str
    id: str
    parent: str | None
    saved: tuple[str, bytes] | None
    metadata: bytes
    writes: list[WriteRow]

    def load_metadata(self) -> dict[str, Any]:
        """The metadata. Raises ValueError where they do not read."""
        found: dict[str, Any] = json.loads(self.metadata or b"{}")
        return found


def is_threads_file(path: Path) -> bool:
    """Whether that is a file with the tables of langgraph-checkpoint-sqlite."""
    if path.is_dir() or not is_database(path):
        return False
    database = ReadOnlyDatabase(path)
    try:
        return all(columns <= database.columns(table) for table, columns in _COLUMNS.items())
    finally:
        database.close()


class ThreadsFile:
    """A file of langgraph-checkpoint-sqlite; a context manager that closes it.

    Args:
        path: The file.

    Raises:
        StoreUnavailable: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self._database = ReadOnlyDatabase(path)
        # files of older versions have no paths of tasks
        path_column = "task_path" if "task_path" in self._database.columns("writes") else "''"
        self._get_writes = _GET_WRITES.format(path=path_column)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def threads(self) -> list[str]:
        """The ids of the threads."""
        return [thread_id for (thread_id,) in self._database.rows(_GET_THREADS)]

    def count_rows(self) -> int:
        """Count the checkpoints and what was written after them."""
        return int(self._database.rows(_COUNT)[0][0])

    def names(self, thread_id: str) -> list[tuple[str, str]]:
        """The namespace and id of each checkpoint of a thread, the latest last."""
        return [(namespace, name) for namespace, name in self._database.rows(_GET_IDS, (thread_id, thread_id))]

    def checkpoints(self, thread_id: str, names: list[tuple[str, str]]) -> Iterator[CheckpointRow]:
        """Read checkpoints of a thread, one after the other."""
        for namespace, name in names:
            at = thread_id, namespace, name
            writes = [WriteRow(*row) for row in self._database.rows(self._get_writes, at)]
            found = self._database.rows(_GET_CHECKPOINT, at)
            parent, kind, data, metadata = found[0] if found else (None, "", b"", b"")
            yield CheckpointRow(namespace, name, parent, (kind, data) if found else None, metadata, writes)
