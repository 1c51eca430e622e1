"""The file of a SQLite archive: refused, locked, full, synced to the disk, moved, of an earlier version."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime.checkpoint import SQLiteCheckpointer as ForeignCheckpointer

from runstream.model.errors import (
    ConfigurationError,
    StoreUnavailable,
    UnsupportedVersion,
)
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from tests.stores.archive.sqlite.database import (
    Archive,
    Open,
    batch_of,
    foreign_event,
    history,
    offsets,
    query,
)
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events


def test_a_newer_schema_is_refused_and_left_alone(open_archive: Open, path: Path) -> None:
    open_archive().close()
    query(path, "PRAGMA user_version = 6")
    with pytest.raises(UnsupportedVersion) as caught:
        open_archive()
    assert (caught.value.found, caught.value.supported) == (6, 5)


def test_a_file_that_is_no_database_is_refused_by_name(open_archive: Open, path: Path) -> None:
    path.write_bytes(b"a letter, not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"runs\.db is not a SQLite database") as caught:
        open_archive()
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert path.read_bytes() == b"a letter, not a database" * 100


@pytest.mark.parametrize("table", ["runs (id)", "events (id, what)", "archive (id, run_id)"])
def test_another_programs_database_is_refused_and_left_alone(open_archive: Open, path: Path, table: str) -> None:
    query(path, f"CREATE TABLE {table}")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        open_archive()
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "missing" / "runs.db", "", ":memory:", "a\0b"):
        with pytest.raises(ConfigurationError):
            SQLiteCheckpointer(wrong)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_a_file_that_stays_locked_is_unavailable_and_the_same_call_can_be_repeated(
    open_archive: Open, path: Path
) -> None:
    archive = open_archive(busy_timeout_seconds=0.05)
    with locked(path):
        with pytest.raises(StoreUnavailable) as caught:
            archive.save_event(make_event("r"))
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        with pytest.raises(StoreUnavailable):
            archive.delete_run("r")
        assert archive.run_info("r") is None  # readers go on
    archive.save_event(make_event("r"))
    assert offsets(archive) == [1]


def test_a_foreign_file_that_stays_locked_cannot_be_upgraded_now(open_archive: Open, path: Path) -> None:
    query(path, "CREATE TABLE notes (x)")
    with locked(path), pytest.raises(StoreUnavailable):
        open_archive(busy_timeout_seconds=0.05)
    open_archive()


@pytest.mark.exhaustive
def test_a_full_disk_is_unavailable_and_nothing_of_the_batch_is_kept(archive: Archive, path: Path) -> None:
    archive.write([batch_of("r", history("r", 2))])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))  # the files of this process cannot grow beyond
    try:
        with pytest.raises(StoreUnavailable):
            archive.write([batch_of("big", history("big", 3000, payload={"text": "x" * 300}))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert archive.position("big") is None
    assert offsets(archive) == [1, 2]
    archive.write([batch_of("big", history("big", 3000, payload={"text": "x" * 300}))])
    assert len(offsets(archive, "big")) == 3000
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


# -- durable ------------------------------------------------------------------------------------------------


def settings(archive: Archive) -> dict[str, Any]:
    """How the connection of now commits: 2 is FULL."""
    names = ("journal_mode", "synchronous", "fullfsync")
    with operations_of(archive)._file.use() as connection:
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}


def test_every_connection_syncs_what_it_commits(open_archive: Open, path: Path) -> None:
    """The first, on a file that another program made in another mode; one after a fork; one after a failure."""
    ForeignCheckpointer(str(path)).save_event(foreign_event(1))
    query(path, "PRAGMA journal_mode = DELETE")
    archive = open_archive()
    durable = {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}
    assert settings(archive) == durable
    operations_of(archive)._file.before_fork()
    query(path, "PRAGMA journal_mode = TRUNCATE")  # nobody has it open: it can be changed
    operations_of(archive)._file.after_fork()
    assert settings(archive) == durable
    with operations_of(archive)._file.use() as connection:
        connection.execute("PRAGMA synchronous = OFF")
    with pytest.raises(StoreUnavailable), operations_of(archive)._file.use() as connection:
        connection.execute("SELECT * FROM what_is_not_there")
    assert settings(archive) == durable


def test_the_log_is_on_the_disk_before_the_file_is_opened_and_its_name_too(
    open_archive: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes for committed what it finds in a log, also if its writer never came to sync it."""
    open_archive().save_event(make_event("r"))
    log, order = path.with_name(path.name + "-wal").stat().st_ino, []
    fsync, advise, connect = os.fsync, os.posix_fadvise, sqlite3.connect

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(first: Any, *rest: Any, **options: Any) -> Any:
            order.append((name, os.fstat(first).st_ino if isinstance(first, int) else 0))
            return call(first, *rest, **options)

        return noting

    for module, name, call in ((os, "fsync", fsync), (os, "posix_fadvise", advise), (sqlite3, "connect", connect)):
        monkeypatch.setattr(module, name, noted(name, call))
    open_archive()
    expected = [("fsync", log), ("posix_fadvise", log), ("connect", 0), ("fsync", path.parent.stat().st_ino)]
    assert order == expected


def test_the_integrity_is_checked_from_the_disk(
    archive: Archive, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, *_: dropped.append(os.fstat(handle).st_ino))
    archive.write([batch_of("r", history("r", 3))])
    assert dropped == []
    archive.check_integrity()
    assert dropped == [path.with_name(path.name + "-wal").stat().st_ino]


def test_an_archive_that_a_link_leads_to_is_watched_where_it_lies(open_archive: Open, path: Path) -> None:
    place = path.parent / "elsewhere"
    place.mkdir()
    path.symlink_to(place / "real.db")
    archive = open_archive()
    archive.save_event(make_event("r"))
    (place / "real.db-wal").unlink()
    with pytest.raises(StoreUnavailable, match="-wal was removed"):
        archive.position("r")
    assert offsets(archive) == [1]
    SQLiteCheckpointer(place / "other.db").close()
    path.unlink()
    path.symlink_to(place / "other.db")
    with pytest.raises(StoreUnavailable, match="was replaced"):
        archive.position("r")
    with pytest.raises(StoreUnavailable, match="is not the archive"):
        archive.position("r")
    path.unlink()
    path.symlink_to(place / "real.db")
    assert offsets(archive) == [1]


# -- its integrity, its older versions ----------------------------------------------------------------------


def test_the_integrity_of_the_file_is_checked(open_archive: Open, path: Path) -> None:
    archive = open_archive()
    archive.write([batch_of("r", history("r", 200, payload={"text": "x" * 200}))])
    assert archive.check_integrity() == []
    archive.close()
    ((page,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'events_by_offset'")
    archive.close()
    with path.open("rb+") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    found = " ".join(open_archive().check_integrity())
    assert "malformed" in found or "events_by_offset" in found or "page" in found


def test_a_file_of_an_earlier_version_gets_in_place_what_came_later(open_archive: Open, path: Path) -> None:
    """Before there were leases and an index of keys; what it holds stays."""
    archive = open_archive()
    archive.append("r", make_events("r", 3), keys=["a", None, "b"])
    names, before = query(path, "SELECT name FROM sqlite_master ORDER BY name"), list(archive.read("r"))
    uuid = archive.archive_id
    archive.close()
    query(path, "DROP TABLE leases")
    query(path, "DROP INDEX events_by_key")
    archive = open_archive()
    assert query(path, "SELECT name FROM sqlite_master ORDER BY name") == names
    assert (archive.archive_id, list(archive.read("r"))) == (uuid, before)
    assert archive.append("r", make_events("r", 1), keys=["b"]).last_offset == 3
    with archive.lease("r", owner="me"):
        pass
    assert archive.check_integrity() == []


def test_what_was_read_in_one_look_counts_only_if_the_file_is_the_same_after_it(
    open_archive: Open, path: Path
) -> None:
    archive = open_archive()
    archive.save_events(make_events("r", 3))

    def read(then: Callable[[], object]) -> None:
        with archive.one_look():
            assert [entry.offset for entry in archive.read_back("r", 1, 3)] == [1, 2, 3]
            then()

    read(lambda: None)
    with pytest.raises(StoreUnavailable, match="was removed"):
        read(lambda: path.rename(path.with_name("away.db")))
