"""Read databases with the tables of purpose-agent's own SQLiteCheckpointer, ours among them, as they are."""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from runstream.codec.kept_states import text_of_packed
from runstream.integrations.imported import Unreadable
from runstream.integrations.purpose_agent.source import (
    Item,
    Source,
    SourceRun,
    SourceSnapshot,
    event_in,
    object_in,
)
from runstream.integrations.read_only_database import ReadOnlyDatabase
from runstream.model.errors import ConfigurationError, UnsupportedVersion
from runstream.stores.archive.sqlite.row_checksums import entry_checksum, run_seed
from runstream.stores.archive.sqlite.schema import SCHEMA_VERSION

__all__ = ["DatabaseSource"]

_PAGE_ROWS = 500
_DAMAGED = "its row was damaged: its checksum is of another content"
_COLUMNS = {"events": {"id", "run_id", "data"}, "snapshots": {"run_id", "state", "updated_at"}}
_OURS = {"runs", "quarantine", "lane_snapshots"}

_GET_RUNS = "SELECT run_id FROM events UNION SELECT run_id FROM snapshots ORDER BY run_id"
_GET_OUR_RUNS = "SELECT run_id FROM runs UNION SELECT run_id FROM events UNION SELECT run_id FROM snapshots"
_GET_IDS = "SELECT id FROM events WHERE run_id = ? ORDER BY id"
_GET_FOREIGN_IDS = "SELECT id FROM events WHERE run_id = ? AND offset IS NULL ORDER BY id"
_HAS_DRAINS = "SELECT 1 FROM sqlite_master WHERE name = 'drained'"
_IS_DRAINED = "SELECT 1 FROM drained WHERE run_id = ?"
_GET_REPLACED = """SELECT CAST(state AS BLOB), archived_at, 0, state_checksum FROM snapshot_history
    WHERE run_id = ? AND lane_id IS NULL ORDER BY id DESC LIMIT 1"""
_GET_ROWS = "SELECT id, CAST(data AS BLOB) FROM events WHERE id IN (?) ORDER BY id".replace(
    "?", ", ".join("?" * _PAGE_ROWS)
)
_GET_OURS = """SELECT offset, key, CAST(data AS BLOB), NULL, '', chain, checksum FROM events
    WHERE run_id = :run_id AND offset > :after AND NOT (kind = '' AND data = '')
    UNION ALL
    SELECT offset, key, NULL, raw, reason, chain, NULL FROM quarantine WHERE run_id = :run_id AND offset > :after
    ORDER BY offset LIMIT :rows"""
_GET_STATE = "SELECT CAST(state AS BLOB), updated_at FROM snapshots WHERE run_id = ?"
_GET_OUR_STATES = """SELECT NULL, CAST(state AS BLOB), updated_at, token IS NULL, state_checksum FROM snapshots
    WHERE run_id = :run_id
    UNION ALL
    SELECT lane_id, CAST(state AS BLOB), updated_at, 0, state_checksum FROM lane_snapshots
    WHERE run_id = :run_id"""
_GET_STATUS = "SELECT status FROM runs WHERE run_id = ?"
_GET_LAST_WRITTEN = "SELECT max(created_at) FROM events WHERE run_id = ?"


class DatabaseSource(Source):
    """A database with purpose-agent's tables."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self._database = ReadOnlyDatabase(path)
        self.rows = self._database.rows
        try:
            self.is_archive = self._check()
        except BaseException:  # an interrupt too: nobody else would close it
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file, and leave nothing beside it that was not there."""
        self._database.close()

    def runs(self) -> Iterator[SourceRun]:
        """The runs that have events or a state."""
        for (run_id,) in self.rows(_GET_OUR_RUNS if self.is_archive else _GET_RUNS):
            yield _RunRows(self, run_id)

    def is_drained(self, run_id: str) -> bool:
        """Whether a drain has written to a run of the archive."""
        return bool(self.rows(_HAS_DRAINS) and self.rows(_IS_DRAINED, (run_id,)))

    def count_events(self) -> int:
        """Count the rows of events."""
        return int(self.rows("SELECT count(*) FROM events")[0][0])

    def our_rows(self, query: str, parameters: Any) -> list[Any]:
        """The rows of an archive of ours, without checksums where it is of version 1, which has none."""
        columns = query if self._has_checksums else re.sub(r"\b(state_)?checksum\b", "NULL", query)
        return self.rows(columns, parameters)

    def _check(self) -> bool:
        """Whether it is an archive of ours. Raises ConfigurationError for another program's database."""
        (version,) = self.rows("PRAGMA user_version")[0]
        self._has_checksums = version > 1
        tables = {name for (name,) in self.rows("SELECT name FROM sqlite_master")}
        for table, expected in _COLUMNS.items():
            if not expected <= self._database.columns(table):
                raise ConfigurationError(f"{self.path} is another program's database: it has no table of {table}")
        is_ours = tables >= _OURS
        if is_ours and version > SCHEMA_VERSION:
            raise UnsupportedVersion(
                f"{self.path} has schema version {version}; this runstream knows up to {SCHEMA_VERSION}: upgrade"
                " it",
                found=version,
                supported=SCHEMA_VERSION,
            )
        return is_ours


class _RunRows(SourceRun):
    def __init__(self, source: DatabaseSource, run_id: str) -> None:
        self.run_id = run_id
        self._source = source

    def events(self) -> Iterator[Item]:
        """Read the rows: ours by offset, then purpose-agent's by id, the order in which they were written.

        In a run that came by a drain its rows are no part of the history.
        """
        if self._source.is_archive:
            yield from self._ours()
            if self._source.is_drained(self.run_id):
                return
        query = _GET_FOREIGN_IDS if self._source.is_archive else _GET_IDS
        ids = iter(array("q", (row_id for (row_id,) in self._source.rows(query, (self.run_id,)))))
        while page := list(islice(ids, _PAGE_ROWS)):
            for row_id, data in self._source.rows(_GET_ROWS, page + [page[-1]] * (_PAGE_ROWS - len(page))):
                yield event_in(self._where(f"row {row_id}"), data, is_ours=False)

    def snapshots(self) -> Iterator[SourceSnapshot | Unreadable]:
        """Read the latest states."""
        if not self._source.is_archive:
            last = self._source.rows(_GET_LAST_WRITTEN, (self.run_id,))[0][0]
            for state, updated_at in self._source.rows(_GET_STATE, (self.run_id,)):
                # whole seconds, as purpose-agent notes when an event was written
                is_older = isinstance(last, int | float) and _number(updated_at) < last
                found = self._state(None, state, updated_at, is_ours=False)
                yield found if isinstance(found, Unreadable) else found._replace(is_older=is_older)
            return
        noted = [status for (status,) in self._source.rows(_GET_STATUS, (self.run_id,))]
        for lane_id, state, updated_at, is_foreign, checksum in self._our_states():
            if checksum not in (None, zlib.crc32(state)):
                yield Unreadable(self._where_of(lane_id), _DAMAGED, state)
                continue
            if lane_id is not None and checksum is not None and not state.startswith(b"{"):
                state = text_of_packed(state).encode()  # noqa: PLW2901 - as all others are
            found = self._state(lane_id, state, updated_at, is_ours=not is_foreign)
            if isinstance(found, SourceSnapshot) and lane_id is None and not is_foreign:
                found = found._replace(is_older=found.fields.get("status") not in noted)
            yield found

    def _ours(self) -> Iterator[Item]:
        after, seed = 0, run_seed(self.run_id)
        while True:
            parameters = {"run_id": self.run_id, "after": after, "rows": _PAGE_ROWS}
            page = self._source.our_rows(_GET_OURS, parameters)
            for offset, key, data, raw, reason, chain, checksum in page:
                after, at = offset, self._where(f"offset {offset}")
                if raw is not None:
                    yield Unreadable(at, reason, raw)
                elif checksum is None or checksum == _checksum(seed, offset, chain, key, data):
                    yield event_in(at, data, is_ours=True, key=key)
                else:
                    yield Unreadable(at, _DAMAGED, data)
            if len(page) < _PAGE_ROWS:
                return

    def _our_states(self) -> list[Any]:
        """The rows of the latest states; without one that another program put in the place of a drain's."""
        rows = self._source.our_rows(_GET_OUR_STATES, {"run_id": self.run_id})
        ours = [row for row in rows if not row[3]]
        if len(ours) == len(rows) or not self._source.is_drained(self.run_id):
            return rows
        return [(None, *row) for row in self._source.our_rows(_GET_REPLACED, (self.run_id,))] + ours

    def _state(
        self, lane_id: str | None, data: bytes, updated_at: object, *, is_ours: bool
    ) -> SourceSnapshot | Unreadable:
        where = self._where_of(lane_id)
        found = object_in(where, data, is_ours=is_ours)
        if isinstance(found, Unreadable):
            return found
        return SourceSnapshot(where, lane_id, found, _number(updated_at))

    def _where_of(self, lane_id: str | None) -> str:
        return self._where("state" if lane_id is None else f"state of lane {lane_id!r}")

    def _where(self, what: str) -> str:
        return f"{self._source.path}, run {self.run_id!r}, {what}"


def _checksum(seed: int, offset: int, chain: int, key: str | None, data: bytes) -> int | None:
    """The checksum of an event's row; None for one whose text is none."""
    try:
        return entry_checksum(seed, offset, chain, key, data.decode())
    except (UnicodeError, AttributeError, TypeError):
        return None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
