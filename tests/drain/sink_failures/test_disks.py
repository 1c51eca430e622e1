"""Sinks in trouble: the disk full, failing or read-only. Redis keeps everything until they work again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runstream import (
    ConfigurationError,
    JSONLCheckpointer,
    RunState,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from tests.drain.sink_failures.scene import Scene
from tests.support.archive_check import check_archives
from tests.support.backends import Backend, RedisBackend
from tests.support.disks import DISKS, SmallDisk, can_mount, mounted, remount, small_disk, without_privileges
from tests.support.operations import operations_of
from tests.support.syscalls import CAN_REFUSE, where_refused

needs_seccomp = pytest.mark.skipif(not CAN_REFUSE, reason="the numbers of this system's calls are not known here")


# -- the disk is full --------------------------------------------------------------------------------


@pytest.fixture(params=DISKS)
def disk(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[SmallDisk]:
    """A small disk of each kind that this machine has; which, is said."""
    with capsys.disabled():
        print(f"[a small disk: {request.param}]", end=" ")
    with small_disk(request.param, tmp_path / "small") as disk:
        yield disk


@pytest.mark.one_in(4)
def test_a_full_disk_keeps_everything_in_redis_until_there_is_room(
    kind: str, disk: SmallDisk, make_backend: Callable[[str], Backend]
) -> None:
    """What was archived can be read meanwhile, and of a batch of two runs neither is begun."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    with closing(Scene(kind, backend, disk.path)) as scene:
        scene.emit(20)
        scene.drain_and_check()
        held = {run_id: list(events) for run_id, events in scene.acknowledged.items()}
        scene.emit(20, size=30_000)
        content = scene.content()
        disk.fill()
        said = ("make room and send", "its room and the limits on files; send", "free space or give access")
        scene.drain_in_vain(*said)
        scene.hot.save_snapshot("two", RunState(run_id="two", data={"text": "x" * 100_000}))
        scene.drain_in_vain(*said)
        check_archives([scene.archive], held)
        if kind == "jsonl":
            assert scene.content() == content
        with closing(scene.open()) as another:
            check_archives([another], held)
        disk.make_room()
        scene.drain_and_check()
        assert scene.archive.load_latest("two") == scene.hot.load_latest("two")


def test_a_database_that_may_not_grow_says_so(sqlite_scene: Scene) -> None:
    """SQLite's own limit, which is the same to it as a disk that is full."""
    scene = sqlite_scene
    scene.emit()
    scene.drain_and_check()
    assert isinstance(scene.archive, SQLiteCheckpointer)
    with operations_of(scene.archive)._file.use() as connection:
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    scene.emit(50, size=1000)
    scene.drain_in_vain("has no room left; make room")
    with operations_of(scene.archive)._file.use() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    scene.drain_and_check()


# -- the disk fails ----------------------------------------------------------------------------------


@pytest.mark.one_in(8)
@needs_seccomp
@pytest.mark.parametrize(
    ("calls", "error"),
    [
        (["fsync", "fdatasync"], errno.EIO),
        (["write", "pwrite64"], errno.EIO),
        (["write", "pwrite64"], errno.EDQUOT),
        (["write", "pwrite64"], errno.EROFS),
        (["fsync", "fdatasync", "ftruncate"], errno.EIO),
    ],
)
def test_a_disk_that_fails_is_unavailable_and_the_same_objects_go_on(
    scene: Scene, calls: list[str], error: int
) -> None:
    """The kernel refuses the calls to one thread: the drain in it fails, and one in another goes on."""
    scene.emit()
    scene.drain_and_check()
    scene.emit()
    before = scene.hot_events()
    for _ in range(2):
        found = where_refused(calls, error, scene.drain)
        assert isinstance(found, StoreUnavailable), found
        assert str(scene.path) in str(found)
        assert scene.hot_events() == before
    scene.drain_and_check()


KILLED_AT_FSYNC = """
import sys
from runstream import JSONLCheckpointer, SQLiteCheckpointer, create_event
from tests.support.syscalls import KILL, refuse
archive = (SQLiteCheckpointer if sys.argv[1] == "sqlite" else JSONLCheckpointer)(sys.argv[2])
archive.append("r", [create_event("r", "text.delta", seq=1)])
refuse(["fsync", "fdatasync"], KILL)
archive.append("r", [create_event("r", "text.delta", seq=2)])
"""


@pytest.mark.one_in(2)
@needs_seccomp
def test_what_a_killed_writer_did_not_sync_is_synced_before_it_counts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit is in the log, and its writer was killed at its fsync: a machine that crashes now loses it."""
    path = tmp_path / ("archive.db" if kind == "sqlite" else "archive")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_FSYNC, kind, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert killed.returncode < 0
    log = path.with_name("archive.db-wal") if kind == "sqlite" else path / "r" / "events.jsonl"
    unsynced, synced = log.stat().st_ino, []
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    with closing(SQLiteCheckpointer(path) if kind == "sqlite" else JSONLCheckpointer(path)) as archive:
        position = archive.position("r")
        assert position is not None
        assert position.cursor.offset == 2
        assert unsynced in synced
        assert {path.parent.stat().st_ino, path.stat().st_ino} & set(synced)  # their names too


# -- the files are read-only -------------------------------------------------------------------------


@pytest.mark.one_in(2)
def test_files_that_become_read_only_are_waited_for(kind: str, make_backend: Callable[[str], Backend]) -> None:
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    with without_privileges() as place, closing(Scene(kind, backend, place)) as scene:
        scene.emit()
        scene.drain_and_check()
        scene.emit()
        scene.disconnect()  # what is open stays writable, for SQLite to the end
        for path in (*scene.files(), place):
            path.chmod(0o555 if path.is_dir() else 0o444)
        scene.drain_in_vain(
            "see the permissions of file and directory", "must be a file that can be", "give access"
        )
        if kind == "jsonl":
            assert len(list(scene.archive.read("one"))) == 10
        for path in (place, *scene.files()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        scene.drain_and_check()


@pytest.mark.one_in(2)
@pytest.mark.skipif(
    not can_mount(), reason="this process may not mount; the test of permissions is the equivalent"
)
def test_a_file_system_that_becomes_read_only_is_waited_for(
    kind: str, tmp_path: Path, make_backend: Callable[[str], Backend]
) -> None:
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    place = tmp_path / "mounted"
    place.mkdir()
    with mounted(place, "size=16m"), closing(Scene(kind, backend, place)) as scene:
        scene.emit()
        scene.drain_and_check()
        scene.emit()
        scene.disconnect()
        remount(place, "ro")
        scene.drain_in_vain(
            "see the permissions of file and directory", "must be a file that can be", "give access"
        )
        remount(place, "rw")
        scene.drain_and_check()


def test_a_place_that_cannot_be_written_is_no_archive_at_the_first_open(kind: str) -> None:
    """The first open asks for another path; the drain never begins."""
    with without_privileges() as place:
        place.joinpath("sub").mkdir(mode=0o555)
        with pytest.raises(ConfigurationError, match=r"cannot be"):
            (SQLiteCheckpointer if kind == "sqlite" else JSONLCheckpointer)(place / "sub" / "archive")
