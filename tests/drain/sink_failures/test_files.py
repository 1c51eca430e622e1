"""Sinks in trouble: files that are locked, damaged, removed or replaced while a worker is at work."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from runstream import (
    DrainReport,
    SQLiteCheckpointer,
    StoreUnavailable,
    create_event,
)
from runstream.stores.archive.jsonl import run_log
from runstream.stores.archive.jsonl.file_locks import Locks, write_all
from runstream.stores.archive.sqlite import connection as sqlite_file
from tests.drain.sink_failures.scene import Scene, held
from tests.support.archive_check import check_archives
from tests.support.operations import operations_of


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
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


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
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


@pytest.mark.one_in(2)
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
    with pytest.raises(StoreUnavailable, match="was removed"), operations_of(scene.archive)._file.write():
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


@pytest.mark.one_in(4)
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


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
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


@pytest.mark.one_in(2)
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


@pytest.mark.one_in(2)
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


@pytest.mark.one_in(2)
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
