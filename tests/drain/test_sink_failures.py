"""Sinks in trouble: the disk full, the files read-only, locked, damaged, removed or replaced in mid-work.

For each kind of trouble and both archives: what is raised is StoreUnavailable with the next step in its message,
nothing is trimmed and nothing half written; and when the cause is gone, the same objects go on by themselves,
and the archive holds what it must.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    DrainReport,
    DrainWorker,
    EventKind,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    RunState,
    SQLiteCheckpointer,
    StoreUnavailable,
    create_event,
)
from runstream.stores.archive.jsonl import run_log
from runstream.stores.archive.jsonl.file_locks import Locks, write_all
from runstream.stores.archive.sqlite import connection as sqlite_file
from runstream.stores.redis.exchange import Exchange
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend, RedisBackend
from tests.support.disks import DISKS, SmallDisk, can_mount, mounted, remount, small_disk, without_privileges
from tests.support.syscalls import CAN_REFUSE, where_refused

BUSY_SECONDS = 0.2

needs_seccomp = pytest.mark.skipif(not CAN_REFUSE, reason="the numbers of this system's calls are not known here")


@pytest.fixture(params=["sqlite", "jsonl"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(kind: str, tmp_path: Path, make_backend: Callable[[str], Backend]) -> Iterator[Scene]:
    """A worker on an archive of either kind."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    (tmp_path / "disk").mkdir()
    with closing(Scene(kind, backend, tmp_path / "disk")) as scene:
        yield scene


@pytest.fixture
def sqlite_scene(tmp_path: Path, make_backend: Callable[[str], Backend]) -> Iterator[Scene]:
    """A worker on a SQLite file."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    with closing(Scene("sqlite", backend, tmp_path)) as scene:
        yield scene


@pytest.fixture
def jsonl_scene(tmp_path: Path, make_backend: Callable[[str], Backend]) -> Iterator[Scene]:
    """A worker on a JSONL directory."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    with closing(Scene("jsonl", backend, tmp_path)) as scene:
        yield scene


class Scene:
    """Redis, one archive, one worker, and what was acknowledged."""

    def __init__(self, kind: str, backend: RedisBackend, directory: Path) -> None:
        self.kind = kind
        self.backend = backend
        self.path = directory / ("archive.db" if kind == "sqlite" else "archive")
        self.acknowledged: dict[str, list[PAEvent]] = {}
        self.archive = self.open()
        hot = backend.open()
        assert isinstance(hot, RedisCheckpointer)
        self.hot: RedisCheckpointer[Any, Any] = hot
        self.worker = self.new_worker()

    def open(self, **options: Any) -> Archive:
        """Another object on the archive."""
        options = {"busy_timeout_seconds": BUSY_SECONDS, **options}
        if self.kind == "sqlite":
            return SQLiteCheckpointer(self.path, **options)
        return JSONLCheckpointer(self.path, **options)

    def new_worker(self, **options: Any) -> DrainWorker:
        """A worker on the archive's object."""
        return DrainWorker(self.hot, [self.archive], **{"trim": "archived", "park_seconds": 0.001, **options})

    def emit(self, count: int = 10, *, run_ids: tuple[str, ...] = ("one", "two"), size: int = 100) -> None:
        """Append so many events to each run."""
        for run_id in run_ids:
            known = self.acknowledged.setdefault(run_id, [])
            events = [
                create_event(run_id, EventKind.TOOL_RESULT, seq=len(known) + number, text="x" * size)
                for number in range(1, count + 1)
            ]
            self.hot.save_events(events)
            known += events

    def hot_events(self) -> dict[str, int]:
        """How many events of each run Redis holds."""
        return {run_id: self._command(b"XLEN", run_id) for run_id in self.acknowledged}

    def _command(self, name: bytes, run_id: str) -> int:
        def operation() -> Any:
            (reply,) = yield Exchange([(name, self.hot.context.keys.run(run_id).events)])
            return reply

        return int(self.hot.perform(operation()))

    def drain(self) -> DrainReport | StoreUnavailable:
        """What one drain gives, or why it was given up."""
        try:
            return self.worker.drain_once()
        except StoreUnavailable as error:
            return error

    def drain_in_vain(self, *said: str) -> None:
        """A drain while the archive is in trouble, twice: it says one of these things and trims nothing."""
        before = self.hot_events()
        for _ in range(2):
            error = self.drain()
            assert isinstance(error, StoreUnavailable), error
            assert any(words in str(error) for words in said), error
            assert str(self.path) in str(error)
            assert self.hot_events() == before

    def drain_and_check(self) -> None:
        """What is due is archived, and the archive is what it must be."""
        report = self.drain()
        assert isinstance(report, DrainReport), report
        assert report.parked == 0
        assert set(self.hot_events().values()) == {0}
        self.check()

    def check(self) -> None:
        """The archive is what it must be: to this object, and to one that opens it anew."""
        assert self.archive.check_integrity() == []
        check_archives([self.archive], self.acknowledged)
        self.archive.close()
        self.archive = self.open()
        check_archives([self.archive], self.acknowledged)
        self.worker = self.new_worker()

    def disconnect(self) -> None:
        """Let the archive's files be opened again at the next use, as after a fork."""
        if isinstance(self.archive, SQLiteCheckpointer):
            self.archive._file.before_fork()
            self.archive._file.after_fork()

    def files(self) -> list[Path]:
        """The archive's files and directories."""
        return sorted({self.path, *self.path.rglob("*"), *self.path.parent.glob(f"{self.path.name}-*")})

    def content(self) -> dict[Path, bytes]:
        """What is in the archive's files, but for those that are only there to be locked."""
        files = [path for path in self.files() if path.is_file()]
        return {
            path: path.read_bytes() for path in files if path.parent.name != ".locks" and "-shm" not in path.name
        }

    def close(self) -> None:
        self.archive.close()


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
    with scene.archive._file.use() as connection:
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    scene.emit(50, size=1000)
    scene.drain_in_vain("has no room left; make room")
    with scene.archive._file.use() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    scene.drain_and_check()


# -- the disk fails ----------------------------------------------------------------------------------


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


# -- somebody else holds it --------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
from contextlib import closing
from pathlib import Path
from runstream.stores.archive.jsonl.file_locks import Locks
def wait():
    print("held", flush=True)
    sys.stdin.read()
if sys.argv[1] == "sqlite":
    with closing(sqlite3.connect(sys.argv[2], isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        wait()
        connection.execute("ROLLBACK")
else:
    with Locks(Path(sys.argv[2]), 30.0).held(["one", "two"]):
        wait()
"""


@contextmanager
def held(scene: Scene) -> Iterator[None]:
    """Another process is in the middle of a write."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, scene.kind, str(scene.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate()
    assert holder.returncode == 0


def test_a_writer_that_holds_it_too_long_is_waited_for(scene: Scene) -> None:
    scene.emit()
    scene.drain_and_check()
    scene.emit()
    with held(scene):
        scene.drain_in_vain("locked" if scene.kind == "sqlite" else "another process has held")
        assert len(list(scene.archive.read("one"))) == 10  # readers go on
    scene.drain_and_check()


# -- it is removed, or replaced ----------------------------------------------------------------------

REMOVED = {
    "sqlite": ["archive.db", "."],
    "jsonl": ["archive", "archive/.runstream.json", "."],
}


@pytest.mark.parametrize(("kind", "what"), [(kind, what) for kind in REMOVED for what in REMOVED[kind]])
def test_what_is_removed_in_mid_work_is_noticed_and_goes_on_when_it_is_back(scene: Scene, what: str) -> None:
    """Nothing is made in its place, however often it is tried; and when it is back, the same objects go on."""
    place = scene.path.parent / what
    aside = place.parent / "aside" if what != "." else scene.path.parent.with_name("aside")
    scene.emit()
    scene.drain_and_check()
    scene.emit()
    place.rename(aside)
    scene.drain_in_vain("put the ")
    with pytest.raises(StoreUnavailable):
        scene.archive.append("one", [create_event("one", "text.delta")])
    for use in (scene.archive.position, scene.archive.run_info, lambda run_id: list(scene.archive.read(run_id))):
        with pytest.raises(StoreUnavailable):
            use("one")
    assert not place.exists()
    aside.rename(place)
    scene.drain_and_check()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize("others", [0, 1])
def test_a_log_or_index_that_is_removed_loses_nothing(sqlite_scene: Scene, suffix: str, others: int) -> None:
    """What was committed to the log only, and trimmed from Redis: who has it open brings it into the database."""
    scene = sqlite_scene
    opened = [scene.open() for _ in range(others)]
    scene.emit()
    report = scene.drain()
    assert isinstance(report, DrainReport)
    assert set(scene.hot_events().values()) == {0}
    scene.emit()
    before = scene.hot_events()
    Path(f"{scene.path}{suffix}").unlink()
    error = scene.drain()
    assert isinstance(error, StoreUnavailable)
    assert f"{scene.path}{suffix} was removed" in str(error)
    assert scene.hot_events() == before
    for another in opened:  # each lets go of what was removed
        with pytest.raises(StoreUnavailable, match="was removed"):
            another.position("one")
    scene.drain_and_check()
    for another in opened:
        check_archives([another], scene.acknowledged)
        another.close()


def test_a_commit_to_a_file_that_is_removed_meanwhile_does_not_count(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    scene.emit()
    scene.drain_and_check()
    assert isinstance(scene.archive, SQLiteCheckpointer)
    aside = scene.path.with_name("aside")
    with pytest.raises(StoreUnavailable, match="was removed"), scene.archive._file.write():
        scene.path.rename(aside)
    aside.rename(scene.path)
    scene.emit()
    scene.drain_and_check()


def test_a_batch_in_a_log_that_is_removed_meanwhile_does_not_count(
    jsonl_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = jsonl_scene
    scene.emit()
    scene.drain_and_check()
    scene.emit()
    log = scene.path / "one" / "events.jsonl"

    def removed_meanwhile(handle: int, data: bytes) -> None:
        write_all(handle, data)
        if log.exists():
            log.rename(log.with_name("aside"))

    monkeypatch.setattr(run_log, "write_all", removed_meanwhile)
    before = scene.hot_events()
    error = scene.drain()
    assert isinstance(error, StoreUnavailable)
    assert f"{log} was removed" in str(error)
    assert scene.hot_events() == before
    monkeypatch.undo()
    log.with_name("aside").rename(log)
    scene.drain_and_check()


def test_a_log_that_is_removed_after_it_was_read_is_not_begun_in_its_middle(
    jsonl_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = jsonl_scene
    scene.emit()
    scene.drain_and_check()
    scene.emit(run_ids=("one",))
    log, make_ready = scene.path / "one" / "events.jsonl", run_log.RunLog.make_ready

    def removed_after(run: run_log.RunLog) -> None:
        make_ready(run)
        log.rename(log.with_name("aside"))

    monkeypatch.setattr(run_log.RunLog, "make_ready", removed_after)
    assert isinstance(scene.drain(), StoreUnavailable)
    monkeypatch.undo()
    assert not log.exists()
    log.with_name("aside").rename(log)
    scene.drain_and_check()


@pytest.mark.parametrize("replaced_by", ["another archive", "an empty one", "nonsense"])
def test_what_is_put_in_its_place_is_not_written_to(scene: Scene, replaced_by: str) -> None:
    """Not even one that looks as new: an archive with this UUID and nothing in it would be taken for complete."""
    scene.emit()
    scene.drain_and_check()
    scene.emit()
    aside = scene.path.with_name("aside")
    scene.path.rename(aside)
    if replaced_by == "another archive":
        scene.open().close()
    elif scene.kind == "jsonl":
        scene.path.mkdir()
        if replaced_by == "nonsense":
            (scene.path / ".runstream.json").write_text("nonsense")
    else:
        scene.path.write_bytes(b"" if replaced_by == "an empty one" else b"nonsense" * 1000)
    there = scene.content()
    scene.drain_in_vain(
        "was replaced", "was removed", "is not the archive", "is not a SQLite database", "does not read"
    )
    for path, content in there.items():
        assert path.read_bytes() == content
    if scene.path.is_dir():
        assert not (scene.path / "one").exists()
        shutil.rmtree(scene.path)
    else:
        for path in scene.files():
            path.unlink()
    aside.rename(scene.path)
    scene.drain_and_check()


def test_a_file_that_is_removed_while_it_is_opened_again_is_not_made_anew(
    sqlite_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = sqlite_scene
    scene.emit()
    scene.drain_and_check()
    scene.disconnect()
    aside = scene.path.with_name("aside")
    monkeypatch.setattr(sqlite_file, "sync_log", lambda _: scene.path.rename(aside))
    with pytest.raises(StoreUnavailable):
        scene.archive.position("one")
    monkeypatch.undo()
    assert not scene.path.exists()
    aside.rename(scene.path)
    scene.emit()
    scene.drain_and_check()


def test_a_directory_that_is_replaced_while_its_lock_is_waited_for_is_not_written_to(
    jsonl_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = jsonl_scene
    scene.emit()
    scene.drain_and_check()
    take, aside = Locks._take, scene.path.with_name("aside")

    def replaced_meanwhile(locks: Locks, path: Path, deadline: float) -> int:
        handle = take(locks, path, deadline)
        scene.path.rename(aside)
        scene.path.mkdir()
        return handle

    monkeypatch.setattr(Locks, "_take", replaced_meanwhile)
    with pytest.raises(StoreUnavailable, match="was removed"):
        scene.archive.append("new", [create_event("new", "text.delta")])
    monkeypatch.undo()
    assert list(scene.path.iterdir()) == []
    scene.path.rmdir()
    aside.rename(scene.path)
    scene.emit()
    scene.drain_and_check()


def copy_of(scene: Scene) -> Path:
    """A copy of the archive as it is now, as a backup makes it."""
    copy = scene.path.with_name("copy")
    if scene.kind == "sqlite":
        with closing(sqlite3.connect(scene.path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    else:
        shutil.copytree(scene.path, copy)
    return copy


def put_in_place(scene: Scene, copy: Path) -> None:
    """Restore it over what is there. A log that lies beside a database is left where it is."""
    if scene.path.is_dir():
        shutil.rmtree(scene.path)
    copy.replace(scene.path)


OTHER = """
import sys
from runstream import SQLiteCheckpointer, create_event
archive = SQLiteCheckpointer(sys.argv[1])
archive.append("theirs", [create_event("theirs", "text.delta", seq=number) for number in range(50)])
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("leaves", [True, False])
def test_what_others_wrote_after_log_and_index_were_removed_is_not_destroyed(
    sqlite_scene: Scene, leaves: bool
) -> None:
    """The connection to what was removed neither writes its older state over theirs nor removes their log."""
    scene = sqlite_scene
    scene.emit()
    scene.drain_and_check()  # which closes the archive, so that the database has it all
    assert scene.archive.position("one") is not None
    for suffix in ("-wal", "-shm"):
        Path(f"{scene.path}{suffix}").unlink()
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(scene.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        if leaves:
            other.communicate()
        with pytest.raises(StoreUnavailable, match="was replaced"):
            scene.archive.position("one")
        assert len(list(scene.archive.read("theirs"))) == 50
        scene.emit()
        scene.drain_and_check()
        assert len(list(scene.archive.read("theirs"))) == 50
        if not leaves:
            other.communicate()
    assert len(list(scene.archive.read("theirs"))) == 50
    scene.check()


@pytest.mark.parametrize("trim", ["archived", "never"])
def test_an_older_copy_that_is_put_in_its_place_is_found_to_be_behind(scene: Scene, trim: str) -> None:
    """Last night's backup: what Redis still has is archived again; a run of which it has not is parked."""
    scene.worker = scene.new_worker(trim=trim)
    scene.emit()
    assert isinstance(scene.drain(), DrainReport)
    copy = copy_of(scene)
    scene.emit()
    assert isinstance(scene.drain(), DrainReport)
    scene.emit(run_ids=("one", "two", "new"))
    before = scene.hot_events()
    put_in_place(scene, copy)
    if scene.kind == "sqlite":  # a log of another history lies beside it, and must not be taken for its own
        assert isinstance(scene.drain(), StoreUnavailable)
    report = scene.drain()
    assert isinstance(report, DrainReport)
    if trim == "never":
        assert report.parked == 0
        scene.check()
        return
    assert report.parked == 2
    assert scene.hot_events() == {**before, "new": 0}
    check_archives([scene.archive], {"new": scene.acknowledged["new"]})
    assert scene.archive.check_integrity() == []
    position = scene.archive.position("one")
    assert position is not None
    assert position.cursor.offset == 10


@pytest.mark.parametrize("what", ["one", "one/events.jsonl"])
@pytest.mark.parametrize("trim", ["archived", "never"])
def test_a_run_that_is_removed_from_a_directory_is_parked_or_archived_anew(
    jsonl_scene: Scene, what: str, trim: str
) -> None:
    scene = jsonl_scene
    scene.worker = scene.new_worker(trim=trim)
    scene.emit()
    assert isinstance(scene.drain(), DrainReport)
    scene.emit()
    (scene.path / what).rename(scene.path.with_name("aside"))
    report = scene.drain()
    assert isinstance(report, DrainReport)
    if trim == "never":
        assert report.parked == 0
        scene.check()
        return
    assert report.parked == 1
    assert scene.hot_events() == {"one": 10, "two": 0}
    shutil.rmtree(scene.path / "one", ignore_errors=True)
    if what != "one":
        (scene.path / "one").mkdir()
    scene.path.with_name("aside").rename(scene.path / what)
    scene.drain_and_check()


# -- it is damaged -----------------------------------------------------------------------------------


def overwrite(path: Path, skip: int) -> None:
    """Put nonsense into every page but the first ``skip``. From outside: SQLite's locks go with any handle."""
    script = (
        "import os, sys; path, skip = sys.argv[1], int(sys.argv[2]); file = open(path, 'r+b');"
        " file.seek(skip * 4096); file.write(b'nonsense' * ((os.path.getsize(path) - skip * 4096) // 8))"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(skip)], check=True)


@pytest.mark.parametrize("skip", [0, 1])
def test_a_damaged_database_is_said_to_be_damaged_until_it_is_restored(sqlite_scene: Scene, skip: int) -> None:
    scene = sqlite_scene
    scene.emit(50, size=1000)
    assert isinstance(scene.drain(), DrainReport)
    scene.disconnect()  # the log goes into the database
    copy = copy_of(scene)
    scene.archive.position("one")
    scene.emit()
    overwrite(scene.path, skip)
    before = scene.hot_events()
    for _ in range(3):
        error = scene.drain()
        assert isinstance(error, StoreUnavailable)
        assert "is damaged; restore it" in str(error) or "is not a SQLite database" in str(error)
        assert scene.hot_events() == before
    if skip:
        assert scene.archive.check_integrity() != []
    put_in_place(scene, copy)
    scene.drain()  # may find that it is another file
    scene.drain_and_check()
