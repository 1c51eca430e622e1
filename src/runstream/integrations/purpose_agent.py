"""The files of purpose-agent's own checkpointers, read as they stand: DIR/RUN/events.jsonl, or a SQLite database.

Archives of ours are such files with more in them, so they are read here too. What a file is, is told by what is
in it, not by its name. Nothing is written: no file is made or mended, no lock is taken in a directory, and a
database is opened read-only. (SQLite itself keeps two small files beside a database with a write-ahead log, which
those of purpose-agent have not.)
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runstream.codec.archiving import entry_fields
from runstream.codec.lossless_json import load_json
from runstream.integrations.sources import Item, Source, SourceEvent, SourceRun, SourceSnapshot, Unreadable
from runstream.model.errors import ConfigurationError, CorruptRecordError, StoreUnavailable, UnsupportedVersion
from runstream.stores.jsonl import names
from runstream.stores.jsonl.history import History, Span
from runstream.stores.jsonl.lines import facts_of, is_bare_mark, is_header, own_entry
from runstream.stores.jsonl.snapshots import all_snapshots, load_state
from runstream.stores.sqlite_schema import SCHEMA_VERSION

__all__ = ["DatabaseSource", "DirectorySource", "open_source"]

_SQLITE_HEADER = b"SQLite format 3\0"
_SNAPSHOT, _BACKUP = "snapshot.json", "snapshot.backup.json"


def open_source(path: Path) -> Source:
    """The runs at that path. Raises ConfigurationError where there is nothing that can be read as such."""
    if path.is_dir():
        return DirectorySource(path)
    try:
        with path.open("rb") as file:
            is_database = file.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: there is nothing at that path") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    if not is_database:
        raise ConfigurationError(
            f"{path} is no SQLite database: name a database of purpose-agent, its directory of runs (the one that"
            " has RUN/events.jsonl), or an archive"
        )
    return DatabaseSource(path)


# -- a directory ---------------------------------------------------------------------------------------


class DirectorySource(Source):
    """A directory whose directories, at whatever depth, are runs: a run id may have slashes in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self._directories = [Path(found) for found, _, files in os.walk(path) if _holds_run(found, files)]
        if not self._directories:
            raise ConfigurationError(f"{path} has no run in it: no RUN/{names.EVENTS}, no RUN/{_SNAPSHOT}")

    def runs(self) -> Iterator[SourceRun]:
        """The runs, by their directories."""
        for directory in sorted(self._directories):
            yield _RunDirectory(directory, directory.relative_to(self.path).as_posix())

    def close(self) -> None:
        """Nothing is held open."""

    def count_events(self) -> int:
        """The lines."""
        count = 0
        for directory in self._directories:
            with contextlib.suppress(FileNotFoundError), (directory / names.EVENTS).open("rb") as file:
                while piece := file.read(2**20):
                    count += piece.count(b"\n")
        return count


def _holds_run(directory: str, files: Sequence[str]) -> bool:
    is_grave = Path(directory).name.startswith(".deleted-")  # of an archive that was killed as it deleted
    return not is_grave and (names.EVENTS in files or _SNAPSHOT in files)


class _RunDirectory(SourceRun):
    """A run's directory. The run is what its events say it is: the writer of the directory may have encoded it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._log = directory / names.EVENTS
        self.run_id = self._told_run_id() or names.named(name) or name
        self._history = History(self.run_id)

    def events(self) -> Iterator[Item]:
        """The lines that count, in order."""
        try:
            file = self._log.open("rb")
        except FileNotFoundError:
            return
        with file:
            history = self._history = History(self.run_id)
            history.scan(file)
            start = history.start
            lines = _Counted(file)
            if start is not None and history.last != start:
                yield from self._counting(lines, history.span(start.offset, history.last.offset))
            yield from self._cut(lines, history.end)

    def snapshots(self) -> Iterator[SourceSnapshot | Unreadable]:
        """The states in the directory's files."""
        mark = self._history.mark
        try:
            found = list(all_snapshots(self.run_id, self._directory, mark))
        except CorruptRecordError as error:
            yield Unreadable(str(self._directory), str(error), error.raw)
            found = list(all_snapshots(self.run_id, self._directory, mark, on_corrupt="skip"))
            if all(one.lane_id is not None for one in found):
                yield from self._backup()
        for one in found:
            place = str(self._directory / names.snapshot_name(one.lane_id))
            try:
                fields = load_state(self.run_id, one)
            except CorruptRecordError as error:
                yield Unreadable(place, str(error), error.raw)
                continue
            is_older = one.lane_id is None and self._is_older(fields.get("status"))
            yield SourceSnapshot(place, one.lane_id, fields, _modified_at(Path(place)), is_older)

    # -- inside ------------------------------------------------------------------------------------

    def _told_run_id(self) -> str | None:
        """What the first line that tells a run tells, or the state."""
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as file:
            for line in file:
                told = _object(line)
                run_id = told["$run"].get("run_id") if isinstance(told.get("$run"), dict) else told.get("run_id")
                if isinstance(run_id, str) and run_id:
                    return run_id
        with contextlib.suppress(FileNotFoundError):
            run_id = _object((self._directory / _SNAPSHOT).read_bytes()).get("run_id")
            if isinstance(run_id, str) and run_id:
                return run_id
        return None

    def _counting(self, lines: _Counted, span: Span) -> Iterator[Item]:
        """The lines up to the span's end that have come to count."""
        position = 0
        for raw in lines:
            begin, position = position, position + len(raw)
            if begin >= span.end:
                return
            line, place = raw.rstrip(b"\r\n"), f"{self._log}, line {lines.count}"
            if not line.strip() or any(first <= begin < last for first, last in span.holes):
                continue
            facts = facts_of(line)
            if facts is None:
                yield _event(place, line, is_ours=False)
            elif not is_bare_mark(facts) and not is_header(line):
                entry = own_entry(line, facts)
                try:
                    fields = entry_fields(self.run_id, entry)
                except CorruptRecordError as error:
                    yield Unreadable(place, entry.reason or str(error), error.raw)
                else:
                    if fields is not None:
                        yield SourceEvent(place, fields, entry.key)

    def _cut(self, lines: _Counted, end: int) -> Iterator[Item]:
        """What stands after the last line that counts: one that was cut, if it is not of a batch of ours."""
        if self._log.stat().st_size <= end:
            return
        lines.seek(end)
        for line in lines:
            if line.strip() and facts_of(line.rstrip(b"\r\n")) is None and not line.startswith(b'{"$'):
                yield Unreadable(f"{self._log}, line {lines.count}", "it was cut off as it was written", line)

    def _backup(self) -> Iterator[SourceSnapshot]:
        path = self._directory / _BACKUP
        with contextlib.suppress(FileNotFoundError):
            fields = _object(path.read_bytes())
            if fields:
                yield SourceSnapshot(str(path), None, fields, _modified_at(path), is_older=True)

    def _is_older(self, status: object) -> bool:
        if self._history.mark is not None and not self._history.ends_plain:
            return self._history.mark.status != status
        return _modified_at(self._directory / _SNAPSHOT) < _modified_at(self._log)


class _Counted:
    """The lines of a file from its beginning, with the number of the last one that was given."""

    def __init__(self, file: Any) -> None:
        self._file = file
        file.seek(0)
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._file:
            self.count += 1
            yield line

    def seek(self, position: int) -> None:
        """Go to the line that begins there."""
        self._file.seek(0)
        self.count = 0
        at = 0
        while at < position and (line := self._file.readline()):
            at += len(line)
            self.count += 1


def _modified_at(path: Path) -> float:
    """Unix time in seconds; 0.0 for a file that is not there."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in a text; an empty one where there is none."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {}


# -- a database ----------------------------------------------------------------------------------------

_PAGE_ROWS = 500
_COLUMNS = {"events": {"id", "run_id", "data"}, "snapshots": {"run_id", "state", "updated_at"}}
_OURS = {"runs", "quarantine", "lane_snapshots"}

_GET_RUNS = "SELECT run_id FROM events UNION SELECT run_id FROM snapshots ORDER BY run_id"
_GET_OUR_RUNS = "SELECT run_id FROM runs UNION SELECT run_id FROM events UNION SELECT run_id FROM snapshots"
_GET_IDS = "SELECT id FROM events WHERE run_id = ? ORDER BY id"
_GET_FOREIGN_IDS = "SELECT id FROM events WHERE run_id = ? AND offset IS NULL ORDER BY id"
_GET_ROWS = "SELECT id, CAST(data AS BLOB) FROM events WHERE id IN (?) ORDER BY id".replace(
    "?", ", ".join("?" * _PAGE_ROWS)
)
_GET_OURS = """SELECT offset, key, CAST(data AS BLOB), NULL, '' FROM events
    WHERE run_id = :run_id AND offset > :after AND NOT (kind = '' AND data = '')
    UNION ALL
    SELECT offset, key, NULL, raw, reason FROM quarantine WHERE run_id = :run_id AND offset > :after
    ORDER BY offset LIMIT :rows"""
_GET_STATE = "SELECT CAST(state AS BLOB), updated_at FROM snapshots WHERE run_id = ?"
_GET_OUR_STATES = """SELECT NULL, CAST(state AS BLOB), updated_at, token IS NULL FROM snapshots
    WHERE run_id = :run_id
    UNION ALL
    SELECT lane_id, CAST(state AS BLOB), updated_at, 0 FROM lane_snapshots WHERE run_id = :run_id"""
_GET_STATUS = "SELECT status FROM runs WHERE run_id = ?"
_GET_LAST_WRITTEN = "SELECT max(created_at) FROM events WHERE run_id = ?"


class DatabaseSource(Source):
    """A database with purpose-agent's tables. Each page is a read of its own, so that no writer waits for long."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self._log = Path(f"{path}-wal")
        self._had_log = self._log.exists()
        with _in_our_words(path):
            self._connection = _open_read_only(path)
        try:
            self.is_ours = self._check()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file, and leave nothing beside it that was not there."""
        self._connection.close()
        if not self._had_log and self._log.exists() and self._log.stat().st_size == 0:
            # who may only read leaves them where they are; the last one who may write does not
            with contextlib.suppress(sqlite3.Error), contextlib.closing(_open(self.path, "mode=rw")) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def runs(self) -> Iterator[SourceRun]:
        """The runs that have events or a state."""
        for (run_id,) in self.rows(_GET_OUR_RUNS if self.is_ours else _GET_RUNS):
            yield _RunRows(self, run_id)

    def count_events(self) -> int:
        """The rows."""
        return int(self.rows("SELECT count(*) FROM events")[0][0])

    def rows(self, query: str, parameters: Any = ()) -> list[Any]:
        """What a query gives. Raises StoreUnavailable where the database does not answer."""
        with _in_our_words(self.path):
            return self._connection.execute(query, parameters).fetchall()

    def _check(self) -> bool:
        """Whether it is an archive of ours. Raises ConfigurationError for another program's database."""
        (version,) = self.rows("PRAGMA user_version")[0]
        tables = {name for (name,) in self.rows("SELECT name FROM sqlite_master")}
        for table, expected in _COLUMNS.items():
            if not expected <= {name for (name,) in self.rows("SELECT name FROM pragma_table_info(?)", (table,))}:
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
        """The rows: ours by offset, then purpose-agent's by id, which is the order that they were written in."""
        if self._source.is_ours:
            yield from self._ours()
        query = _GET_FOREIGN_IDS if self._source.is_ours else _GET_IDS
        ids = iter(array("q", (row_id for (row_id,) in self._source.rows(query, (self.run_id,)))))
        while page := list(islice(ids, _PAGE_ROWS)):
            for row_id, data in self._source.rows(_GET_ROWS, page + [page[-1]] * (_PAGE_ROWS - len(page))):
                yield _event(self._place(f"row {row_id}"), data, is_ours=False)

    def snapshots(self) -> Iterator[SourceSnapshot | Unreadable]:
        """The states in its rows."""
        if not self._source.is_ours:
            last = self._source.rows(_GET_LAST_WRITTEN, (self.run_id,))[0][0]
            for state, updated_at in self._source.rows(_GET_STATE, (self.run_id,)):
                # whole seconds, as purpose-agent notes when an event was written
                is_older = isinstance(last, int | float) and _number(updated_at) < last
                found = self._state(None, state, updated_at, is_ours=False)
                yield found if isinstance(found, Unreadable) else found._replace(is_older=is_older)
            return
        noted = [status for (status,) in self._source.rows(_GET_STATUS, (self.run_id,))]
        for lane_id, state, updated_at, is_foreign in self._source.rows(_GET_OUR_STATES, {"run_id": self.run_id}):
            found = self._state(lane_id, state, updated_at, is_ours=not is_foreign)
            if isinstance(found, SourceSnapshot) and lane_id is None and not is_foreign:
                found = found._replace(is_older=found.fields.get("status") not in noted)
            yield found

    def _ours(self) -> Iterator[Item]:
        after = 0
        while True:
            place = {"run_id": self.run_id, "after": after, "rows": _PAGE_ROWS}
            page = self._source.rows(_GET_OURS, place)
            for offset, key, data, raw, reason in page:
                after, at = offset, self._place(f"offset {offset}")
                yield _event(at, data, is_ours=True, key=key) if raw is None else Unreadable(at, reason, raw)
            if len(page) < _PAGE_ROWS:
                return

    def _state(
        self, lane_id: str | None, data: bytes, updated_at: object, *, is_ours: bool
    ) -> SourceSnapshot | Unreadable:
        place = self._place("state" if lane_id is None else f"state of lane {lane_id!r}")
        found = _object_in(place, data, is_ours=is_ours)
        if isinstance(found, Unreadable):
            return found
        return SourceSnapshot(place, lane_id, found, _number(updated_at))

    def _place(self, what: str) -> str:
        return f"{self._source.path}, run {self.run_id!r}, {what}"


def _event(place: str, data: bytes | None, *, is_ours: bool, key: str | None = None) -> Item:
    found = _object_in(place, data, is_ours=is_ours)
    if isinstance(found, Unreadable):
        return found
    if not is_ours:
        found.setdefault("ts", 0.0)  # as in an archive that takes such an event in
    return SourceEvent(place, found, key)


def _object_in(place: str, data: bytes | None, *, is_ours: bool) -> dict[str, Any] | Unreadable:
    try:
        text = (data or b"").decode()
        # what purpose-agent wrote may look like a tag of ours, and is none
        found = load_json(text) if is_ours else json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable(place, str(error), data or b"")
    return found if isinstance(found, dict) else Unreadable(place, "it is not a JSON object", data or b"")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _open_read_only(path: Path) -> sqlite3.Connection:
    for how in ("mode=ro", "mode=ro&immutable=1"):
        connection = _open(path, how)
        connection.text_factory = lambda stored: stored.decode(errors="surrogateescape")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            # a write-ahead log in a directory that cannot be written: if there is none, nobody has it open
            is_refused = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN
            if not is_refused or "immutable" in how or Path(f"{path}-wal").exists():
                raise
        else:
            break
    return connection


def _open(path: Path, how: str) -> sqlite3.Connection:
    url = f"file:{quote(os.fsencode(path.absolute()))}?{how}"
    return sqlite3.connect(url, uri=True, timeout=30.0, isolation_level=None)


@contextlib.contextmanager
def _in_our_words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailable(
            f"{path} cannot be read ({error}); see the file, then send the same again"
        ) from error
