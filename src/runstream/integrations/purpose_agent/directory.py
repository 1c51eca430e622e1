"""Read the files of purpose-agent's own checkpointers as they are: DIR/RUN/events.jsonl, or a SQLite database.

Archives of ours are such files with more in them, so they are read here too. What a file is, its content
shows, not its name. Nothing is written: no file is made or repaired, no lock is taken in a directory, and a
database is opened read-only. (Beside one with a write-ahead log, as archives have, SQLite keeps two small files
while it is open.)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runstream.codec.archive_entries import entry_fields
from runstream.codec.foreign_json import load_foreign_json
from runstream.integrations.imported import Unreadable
from runstream.integrations.purpose_agent.database import DatabaseSource
from runstream.integrations.purpose_agent.homes import TwoHomes
from runstream.integrations.purpose_agent.source import (
    Item,
    Source,
    SourceEvent,
    SourceRun,
    SourceSnapshot,
    event_in,
)
from runstream.integrations.read_only_database import is_database
from runstream.model.errors import ConfigurationError, CorruptRecordError
from runstream.stores.archive.access import Access
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.damaged_lines import came_whole, sound_facts
from runstream.stores.archive.jsonl.growing_files import stable_lines, until_cut
from runstream.stores.archive.jsonl.line_format import facts_of, is_bare_mark, is_header, own_entry
from runstream.stores.archive.jsonl.log_index import LogIndex
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_snapshots import latest_snapshots
from runstream.stores.archive.jsonl.snapshot_files import load_state
from runstream.stores.archive.jsonl.spans import Span, outside

__all__ = ["DirectorySource", "open_source"]

_SNAPSHOT, _BACKUP = "snapshot.json", "snapshot.backup.json"


def open_source(path: Path) -> Source:
    """Open the runs at a path. Raises ConfigurationError where there are none that can be read."""
    if path.is_dir():
        return DirectorySource(path)
    if not is_database(path):
        raise ConfigurationError(
            f"{path} is no SQLite database: name a database of purpose-agent, its directory of runs (the one that"
            " has RUN/events.jsonl), or an archive"
        )
    return DatabaseSource(path)


class DirectorySource(Source):
    """A directory whose directories, at whatever depth, are runs: a run id may have slashes in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self.is_archive = (path / file_names.ABOUT).exists()
        self._directories = [Path(found) for found, _, files in os.walk(path) if _holds_run(found, files)]
        if not self._directories:
            raise ConfigurationError(f"{path} has no run in it: no RUN/{file_names.EVENTS}, no RUN/{_SNAPSHOT}")

    def runs(self) -> Iterator[SourceRun]:
        """The runs, by their directories; one of an archive and of purpose-agent's own writer is one run."""
        names = {directory: directory.relative_to(self.path).as_posix() for directory in self._directories}
        raws = {
            self.path / file_names.encoded(name): raw
            for raw, name in names.items()
            if file_names.raw_parts(name) and file_names.encoded(name) != name
        }
        merged = set()
        for directory in sorted(names, key=lambda directory: (directory not in raws, directory)):
            if directory in merged:
                continue
            run = _RunDirectory(directory, names[directory])
            raw = raws.get(directory)
            beside = None if raw is None else _RunDirectory(raw, names[raw])
            if beside is None or beside.run_id != run.run_id:
                yield run
            else:
                merged.add(raw)
                yield TwoHomes([run, beside])

    def close(self) -> None:
        """Nothing is held open."""

    def count_events(self) -> int:
        """Count the lines of all logs."""
        count = 0
        for directory in self._directories:
            with contextlib.suppress(FileNotFoundError), (directory / file_names.EVENTS).open("rb") as file:
                while piece := file.read(2**20):
                    count += piece.count(b"\n")
        return count


def _holds_run(directory: str, files: Sequence[str]) -> bool:
    is_trash = Path(directory).name.startswith(file_names.TRASH)  # of an archive that was killed as it deleted
    return not is_trash and (file_names.EVENTS in files or _SNAPSHOT in files)


class _RunDirectory(SourceRun):
    """A run's directory. Its events have the run id; the directory's own name may be an encoded one."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._log = directory / file_names.EVENTS
        self.run_id = self._named_run_id() or file_names.named(name) or name
        self._index = LogIndex(self.run_id)

    def events(self) -> Iterator[Item]:
        """Read the lines that count, in order."""
        try:
            file = self._log.open("rb")
        except FileNotFoundError:
            return
        with file:
            index = self._index = LogIndex(self.run_id)
            index.scan(stable_lines(file))
            start = index.start
            lines = _Counted(file)
            if start is not None and index.last != start:
                yield from self._counting(lines, index.span(start.offset, index.last.offset))
            yield from self._cut(lines, index.end)

    def snapshots(self) -> Iterator[SourceSnapshot | Unreadable]:
        """Read the states in the directory's files."""
        log = RunLog(self._directory, self.run_id, lambda: None, lambda: Access(0o600))  # to read: nothing is made
        log.refresh()
        try:
            found = list(latest_snapshots(log))
        except CorruptRecordError as error:
            yield Unreadable(str(self._directory), str(error), error.raw)
            found = list(latest_snapshots(log, on_corrupt="skip"))
            if all(one.lane_id is not None for one in found):
                yield from self._backup()
        for one in found:
            where = str(self._directory / file_names.snapshot_name(one.lane_id))
            try:
                fields = load_state(self.run_id, one)
            except CorruptRecordError as error:
                yield Unreadable(where, str(error), error.raw)
                continue
            is_older = one.lane_id is None and self._is_older(fields.get("status"))
            yield SourceSnapshot(where, one.lane_id, fields, _modified_at(Path(where)), is_older)

    # -- inside ------------------------------------------------------------------------------------

    def _named_run_id(self) -> str | None:
        """The run id in the first line that has one, or in the state."""
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as file:
            for line in until_cut(file):
                fields = _object(line)
                header = fields.get("$run")
                run_id = (header if isinstance(header, dict) else fields).get("run_id")
                if isinstance(run_id, str) and run_id:
                    return run_id
        with contextlib.suppress(FileNotFoundError):
            run_id = _object((self._directory / _SNAPSHOT).read_bytes()).get("run_id")
            if isinstance(run_id, str) and run_id:
                return run_id
        return None

    def _counting(self, lines: _Counted, span: Span) -> Iterator[Item]:
        """The lines up to the span's end that have come to count."""
        position, counts = 0, outside(span.holes)
        for raw in lines:
            begin, position = position, position + len(raw)
            if begin >= span.end:
                return
            line, where = raw.rstrip(b"\r\n"), f"{self._log}, line {lines.count}"
            if not line.strip() or not counts(begin):
                continue
            facts, found = sound_facts(line)
            if facts is None and (found is not None or came_whole(line)):
                yield Unreadable(where, "it was damaged: its checksum is of another content", line)
            elif facts is None:
                yield event_in(where, line, is_ours=False)
            elif not is_bare_mark(facts) and not is_header(line):
                entry = own_entry(line, facts)
                try:
                    fields = entry_fields(self.run_id, entry)
                except CorruptRecordError as error:
                    yield Unreadable(where, entry.reason or str(error), error.raw)
                else:
                    if fields is not None:
                        yield SourceEvent(where, fields, entry.key)

    def _cut(self, lines: _Counted, end: int) -> Iterator[Item]:
        """Report a line of another program that was cut off as it was written, after the last one that counts."""
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
        if self._index.mark is not None and not self._index.ends_plain:
            return self._index.mark.status != status
        return _modified_at(self._directory / _SNAPSHOT) < _modified_at(self._log)


class _Counted:
    """The lines of a file from its beginning, with the number of the last one that was given."""

    def __init__(self, file: Any) -> None:
        self._file = file
        file.seek(0)
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in until_cut(self._file):
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
    """When a file was changed last: Unix time in seconds; 0.0 for one that is not there."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in a text; an empty one where there is none."""
    with contextlib.suppress(ValueError):
        return load_foreign_json(text)
    return {}
