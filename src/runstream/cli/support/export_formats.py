"""The files that ``runstream export`` makes: their formats, and that each is there complete or not at all."""

from __future__ import annotations

import csv
import io
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from runstream.codec.field_checks import FIELDS
from runstream.codec.lossless_json import dump_json, load_json
from runstream.history.exported import Export, json_lines
from runstream.model.archive_records import ArchiveEntry, RunBatch
from runstream.model.errors import ConfigurationError, CorruptRecordError, StoreUnavailable
from runstream.stores.archive.durable_files import sync_directory
from runstream.stores.archive.sqlite import SQLiteCheckpointer

__all__ = [
    "COLUMNS",
    "Format",
    "binary_stdout",
    "complete_or_absent",
    "write_csv",
    "write_jsonl",
    "write_sqlite",
]

Format: TypeAlias = Literal["jsonl", "csv", "sqlite"]

_OWN = ("run_id", *FIELDS)
COLUMNS = (
    *("offset", "cursor", "time", "ts", "lane_id", "seq", "kind", "visibility", "span_id", "parent_span_id"),
    *("session_id", "key", "payload", "extra"),
)
"""The columns of a CSV file. ``extra`` has, as JSON, the fields that a user's own event has besides."""

_BATCH = 1000
_BATCH_BYTES = 8 * 2**20


@contextmanager
def complete_or_absent(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a path to write a file at that is moved to ``path`` when all of it is written, and not before.

    Raises ConfigurationError where there is a file already, unless it is to be replaced.
    """
    if path.is_dir():
        raise ConfigurationError(f"{path} is a directory: name a file in it")
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path.parent} is no directory: a file cannot be made in it")
    taken = ConfigurationError(f"{path} is there already: name another file, or replace it with --force")
    if path.exists() and not force:
        raise taken
    partial = path.with_name(f".{path.name[:150]}.{secrets.token_hex(6)}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        if force:
            partial.replace(path)
        else:
            try:
                os.link(partial, path)  # unlike a rename, it never replaces what came in between
            except FileExistsError as error:
                raise taken from error
            except OSError:  # a file system without links
                partial.rename(path)
        sync_directory(path.absolute().parent)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(FileNotFoundError):
                partial.with_name(partial.name + suffix).unlink()


def write_jsonl(export: Export, file: IO[bytes]) -> None:
    """Write what :func:`~runstream.history.exported.json_lines` gives."""
    for line in json_lines(export):
        file.write(line.encode())


def write_csv(export: Export, file: IO[bytes]) -> None:
    """Write a header, and one record per entry, by RFC 4180: in UTF-8, with CRLF, quoted where need be."""
    text = io.TextIOWrapper(file, "utf-8", errors="surrogatepass", newline="")
    try:
        rows = csv.writer(text)
        rows.writerow(COLUMNS)
        for entry, fields in export.entries():
            if entry.raw is None:
                rows.writerow(_row(entry, fields))
        text.flush()
    finally:
        with suppress(ValueError, OSError):  # what failed above has been said
            text.detach()


def _row(entry: ArchiveEntry, fields: dict[str, Any] | None) -> list[object]:
    if fields is None:
        return [entry.offset, entry.cursor, *[None] * (len(COLUMNS) - 3), None]
    extra = {name: value for name, value in fields.items() if name not in _OWN}
    texts = (fields.get(name) for name in ("lane_id", "seq", "kind", "visibility", "span_id", "parent_span_id"))
    return [
        *(entry.offset, str(entry.cursor), _iso_time(fields["ts"]), repr(fields["ts"]), *texts),
        *(fields.get("session_id"), entry.key, dump_json(fields.get("payload"))),
        dump_json(extra) if extra else None,
    ]


def _iso_time(timestamp: float) -> str | None:
    """A time as ISO 8601, to the microsecond; None for a number that is no time."""
    try:
        return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError, TypeError):
        return None


def _check_snapshots(export: Export) -> None:
    """Leave the snapshots out that do not read, or raise CorruptRecordError for one."""
    run = export.run
    for one in run.snapshots:
        try:
            load_json(one.data)
        except ValueError as error:
            run.broken[one.lane_id] = str(error)
    run.snapshots = [one for one in run.snapshots if one.lane_id not in run.broken]
    if run.broken and not export.skip:
        lane_id, why = next(iter(run.broken.items()))
        of = "the run's snapshot" if lane_id is None else f"the snapshot of lane {lane_id!r}"
        raise CorruptRecordError(
            f"{of} in run {run.run_id!r} does not read: {why}; --skip-corrupt leaves it out",
            run_id=run.run_id,
            offset=0,
        )


def write_sqlite(export: Export, path: Path) -> None:
    """Write an archive of this one run: what a drain worker would have written, with its latest snapshots.

    What a fork shares is there as the runs that it comes from, up to where it was forked. A record that does not
    read is in its quarantine.
    """
    _check_snapshots(export)
    with closing(SQLiteCheckpointer[Any, Any](path)) as archive:
        for run in (*export.run.shared, export.run):
            at, batch, size = run.header.before_first, list[ArchiveEntry](), 0
            for entry, _ in export.own_entries(run):
                batch.append(entry)
                size += len(entry.data or entry.raw or "")
                if len(batch) == _BATCH or size > _BATCH_BYTES:
                    archive.write([RunBatch(run.header, at, batch, drained=False)])
                    at, batch, size = entry.cursor, [], 0
            snapshots = export.run.snapshots if run is export.run else ()
            archive.write([RunBatch(run.header, at, batch, snapshots, drained=False)])
    if path.with_name(f"{path.name}-wal").exists():
        # what it holds would not come along
        raise StoreUnavailable(f"another program has opened {path}, so it is not complete: send the same again")


@contextmanager
def binary_stdout() -> Iterator[IO[bytes]]:
    """Standard output for bytes: UTF-8, whatever the terminal's encoding is."""
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
