"""The table of tags in a SQLite archive: a row for each, and one without a name that has their version.

That row has the checksum over all tags of the run, so that one which is gone shows as well. Each function is one
step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from runstream.model.errors import CorruptRecordError
from runstream.model.tags import NO_TAGS, TagSet
from runstream.stores.archive.sqlite.row_checksums import row_checksum

__all__ = ["load_sound_tags", "load_tags", "save_tags", "with_all"]

_GET = "SELECT name, value, checksum FROM tags WHERE run_id = ? ORDER BY name"
_SET = """INSERT INTO tags (run_id, name, value, checksum) VALUES (?, ?, ?, ?)
    ON CONFLICT (run_id, name) DO UPDATE SET value = excluded.value, checksum = excluded.checksum"""
_REMOVE = "DELETE FROM tags WHERE run_id = ? AND name = ?"


def load_tags(connection: sqlite3.Connection, run_id: str) -> TagSet:
    """The tags of a run. Raises CorruptRecordError where they are not as they were written."""
    rows = connection.execute(_GET, (run_id,)).fetchall()
    if not rows:
        return NO_TAGS
    (name, version, checksum), *others = rows
    values = {name: value for name, value, _ in others}
    is_sound = name == "" and all(type(text) is str for pair in values.items() for text in (version, *pair))
    tags = TagSet(version, values)
    if not is_sound or checksum != _checksum(run_id, tags):
        raise CorruptRecordError(
            f"the tags of run {run_id!r:.600} are not as they were written: restore the file from a copy, or let a"
            " drain write them again; no other run is affected",
            run_id=run_id,
            offset=0,
        )
    return tags


def load_sound_tags(connection: sqlite3.Connection, run_id: str) -> TagSet:
    """The same, where damaged tags are as if they were not there: they are archived again."""
    try:
        return load_tags(connection, run_id)
    except CorruptRecordError:
        return NO_TAGS


def save_tags(connection: sqlite3.Connection, run_id: str, tags: TagSet) -> None:
    """Replace the tags of a run."""
    former = {name: value for name, value, _ in connection.execute(_GET, (run_id,))}
    gone = [(run_id, name) for name in former if name and name not in tags.values]
    connection.executemany(_REMOVE, gone)
    changed = [(run_id, name, value, 0) for name, value in tags.values.items() if former.get(name) != value]
    connection.executemany(_SET, [*changed, (run_id, "", tags.version, _checksum(run_id, tags))])


def with_all(tags: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The condition of a query for runs that have all of these tags, and its parameters."""
    condition, parameters = "", {}
    for index, (name, value) in enumerate(tags.items()):
        condition += (
            " AND run_id IN (SELECT run_id FROM tags"  # noqa: S608 - of numbers
            f" WHERE name = :name_{index} AND value = :value_{index})"
        )
        parameters.update({f"name_{index}": name, f"value_{index}": value})
    return condition, parameters


def _checksum(run_id: str, tags: TagSet) -> int:
    return row_checksum(run_id, tags.version, *(text for pair in sorted(tags.values.items()) for text in pair))
