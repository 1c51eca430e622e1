"""What is erased is gone from every archive too, whoever is killed at what; a late worker brings nothing back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, EventKind, EventsArchived, TieredCheckpointer
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.archive.eraser import Eraser
from runstream.stores.capabilities import part_of
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import Archive
from tests.support.backends import Backend, RedisBackend
from tests.support.drain_tools import Hooked, Hot, due, open_archives, open_hot, parked
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Server, eventually

SECRET = "a secret that nobody is to read"


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[list[Archive]]:
    """An archive of each kind."""
    (tmp_path / "archives").mkdir()
    opened = open_archives(tmp_path / "archives")
    yield opened
    for archive in opened:
        archive.close()


def is_in_files(tmp_path: Path) -> bool:
    """Whether the secret is in a file of an archive."""
    files = (path for path in (tmp_path / "archives").rglob("*") if path.is_file())
    return any(SECRET.encode() in path.read_bytes() for path in files)


def plant(hot: Hot, *, first: int = 1) -> None:
    """Append five events, of which the third has a secret."""
    hot.append("r", make_events("r", 2, first=first))
    hot.append("r", [make_event("r", first + 2, payload={"text": SECRET})], keys=[f"k{first}"])
    hot.append("r", make_events("r", 2, first=first + 3))


def left(store: Any) -> list[int]:
    return [item.offset for item in store.read("r")]


def check_gone(hot: Hot, archives: list[Archive], tmp_path: Path, *, gone: int = 3, last: int = 5) -> None:
    """The event is erased everywhere, and all else is as it was."""
    eventually(lambda: all(one.done for one in hot.erasures("r")))
    assert not due(hot)
    assert not is_in_files(tmp_path)
    for archive in archives:
        with closing(TieredCheckpointer(hot, archive)) as tiered:
            assert left(tiered) == [at for at in range(1, last + 1) if at != gone]
        assert not verify_run("r", hot=hot, sinks=[archive]).difference


def test_keys_and_lanes_of_what_was_erased_before_it_was_archived_are_known(
    hot: Hot, archives: list[Archive]
) -> None:
    """Once the run has left Redis, archives alone tell its number, and the callers' keys when Redis is lost."""
    events = [make_event("r", seq, lane_id=lane) for seq, lane in ((1, "a"), (1, "b"), (2, "a"), (2, "b"))]
    hot.append("r", events, keys=["k", None, "l", None])
    hot.erase("r", [3, 4])
    DrainWorker(hot, archives, trim="archived", retire_idle_seconds=0).drain_once()
    for archive in archives:
        store = TieredCheckpointer(hot, archive)
        assert [(lane.last_offset, lane.last_seq) for lane in store.lanes("r")] == [(3, 2), (4, 2)]
        assert archive.find("r", ["k", "l"]) == [1, 3]
        assert archive.check_integrity() == []
    with TieredCheckpointer(hot, archives[0]).open_run("r", lane_id="b") as run:
        assert run.emit("agent.message").event.seq == 3
    DrainWorker(hot, archives).drain_once()
    assert verify_run("r", hot=hot, sinks=archives).difference is None


@pytest.mark.parametrize(("is_archived", "before"), [(True, 5), (False, 6)], ids=["archived", "new"])
def test_keys_and_lanes_of_what_was_truncated_before_it_was_archived_are_known(
    hot: Hot, archives: list[Archive], is_archived: bool, before: int
) -> None:
    """Whether an archive had the run's beginning or not: when the run has left Redis, and when it is put back."""
    hot.append("r", [make_event("r", 1, lane_id="a")], keys=["first"])
    if is_archived:
        DrainWorker(hot, archives).drain_once()
    events = [make_event("r", seq, lane_id=lane) for seq, lane in ((2, "a"), (1, "b"), (2, "b"), (1, "c"))]
    hot.append("r", events, keys=["k", "l", None, None])
    hot.truncate("r", before=before)
    worker = DrainWorker(hot, archives, retire_idle_seconds=0, retire_after_seconds=0, forget_after_seconds=0)
    worker.drain_once()
    known, keys = [(2, 2), (4, 2), (5, 1)], ["first", "k", "l"]
    for archive in archives:
        store = TieredCheckpointer(hot, archive)
        assert [(lane.last_offset, lane.last_seq) for lane in store.lanes("r")] == known
        assert archive.find("r", keys) == [1, 2, 3]
        assert archive.check_integrity() == []
        assert left(archive) == [5][: 6 - before]
    with TieredCheckpointer(hot, archives[0]).open_run("r", lane_id="b") as run:
        assert run.emit("agent.message").event.seq == 3
        run.finish()
    eventually(lambda: worker.drain_once() and hot.run_info("r") is None)
    put_back(hot, archives[1], "r")
    assert hot.find("r", keys) == [1, 2, 3]
    assert hot.append("r", [make_event("r", 9)], keys=["l"]).last_offset == 3
    DrainWorker(hot, archives).drain_once()
    assert verify_run("r", hot=hot, sinks=archives).difference is None


@pytest.mark.parametrize("trim", ["covered", "archived"])
@pytest.mark.parametrize("is_archived", [True, False], ids=["archived", "new"])
def test_what_was_erased_is_in_no_archive(
    hot: Hot, archives: list[Archive], tmp_path: Path, trim: Any, is_archived: bool
) -> None:
    plant(hot)
    worker = DrainWorker(hot, archives, trim=trim)
    if is_archived:
        worker.drain_once()
        assert is_in_files(tmp_path)
    pending = [place for place in hot.erase("r", [3]).pending if place.place != "Redis"]
    if is_archived:
        assert [place.place for place in pending] == sorted(archive.location for archive in archives)
        assert f"--to {archives[0].location}" in pending[-1].command
    worker.drain_once()
    check_gone(hot, archives, tmp_path)
    assert worker.drain_once().runs == 0


def test_a_worker_that_loaded_it_before_does_not_bring_it_back(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], tmp_path: Path
) -> None:
    """It writes when all was erased: nothing that it brings is kept, and the run is not parked for it."""
    other = open_hot(redis_backend)
    plant(hot)

    def meanwhile(*_: Any) -> None:
        if not other.erasures("r"):
            hot.recover("r")
            hot.append("r", [], snapshots={None: make_state("r", data={"text": SECRET})})
            other.erase("r", [3], drop_snapshots=True)
            DrainWorker(other, archives).drain_runs(["r"])

    late = [Hooked(archive, write=meanwhile) for archive in archives]
    DrainWorker(hot, late, claim_seconds=0.1).drain_once()
    assert not parked(hot)
    assert not is_in_files(tmp_path)
    DrainWorker(other, archives).drain_runs(["r"])
    check_gone(hot, archives, tmp_path)
    for archive in archives:
        assert archive.load_snapshot("r") is None


def test_a_snapshot_that_a_late_worker_writes_does_not_come_back(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], tmp_path: Path
) -> None:
    other = open_hot(redis_backend)
    plant(hot)
    hot.recover("r")
    hot.append("r", [], snapshots={None: make_state("r", data={"text": SECRET})})

    def meanwhile(*_: Any) -> None:
        if not other.erasures("r"):
            other.erase("r", [3], drop_snapshots=True)
            DrainWorker(other, archives).drain_runs(["r"])

    DrainWorker(hot, [Hooked(archive, write=meanwhile) for archive in archives], claim_seconds=0.1).drain_once()
    assert not parked(hot)
    DrainWorker(other, archives).drain_runs(["r"])
    check_gone(hot, archives, tmp_path)


def test_a_snapshot_that_was_saved_since_is_kept(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], tmp_path: Path
) -> None:
    plant(hot)
    hot.recover("r")
    hot.append("r", [], snapshots={None: make_state("r", data={"text": SECRET})})
    DrainWorker(hot, archives).drain_once()
    hot.erase("r", [3], drop_snapshots=True)
    hot.append("r", [], snapshots={None: make_state("r", data={"text": "clean"})})
    DrainWorker(hot, archives).drain_once()
    check_gone(hot, archives, tmp_path)
    for archive in archives:
        state = archive.load_latest("r")
        assert state is not None
        assert state.data == {"text": "clean"}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("method", ["erase_offsets", "where_erased", "note_archived", "rebuild", "settle"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_another_worker_finishes_what_one_began(
    hot: Hot, archives: list[Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, when: str
) -> None:
    plant(hot)
    worker = DrainWorker(hot, archives)
    worker.drain_once()
    hot.erase("r", [3])
    parts = [part_of(archive, Eraser) for archive in archives]
    owners: list[Any] = (
        [type(worker._namespace)] if hasattr(worker._namespace, method) else [type(p) for p in parts]
    )
    for owner in owners:
        monkeypatch.setattr(owner, method, _killing(getattr(owner, method), when))
    with pytest.raises(BaseException, match="killed"):
        worker.drain_once()
    monkeypatch.undo()
    DrainWorker(hot, archives).drain_runs(["r"])
    check_gone(hot, archives, tmp_path)


def _killing(method: Callable[..., Any], when: str) -> Callable[..., Any]:
    class Kill(BaseException):
        pass

    def killing(*args: Any, **options: Any) -> Any:
        if when == "after":
            method(*args, **options)
        raise Kill("killed")

    return killing


def test_an_archive_that_is_put_back_from_a_copy_is_erased_again(
    hot: Hot, archives: list[Archive], tmp_path: Path
) -> None:
    plant(hot)
    DrainWorker(hot, archives).drain_once()
    shutil.copytree(tmp_path / "archives", tmp_path / "copy")
    hot.erase("r", [3])
    DrainWorker(hot, archives).drain_once()
    for archive in archives:
        archive.close()
    shutil.rmtree(tmp_path / "archives")
    shutil.copytree(tmp_path / "copy", tmp_path / "archives")
    assert is_in_files(tmp_path)
    again = open_archives(tmp_path / "archives")
    DrainWorker(hot, again).drain_runs(["r"])
    check_gone(hot, again, tmp_path)
    for archive in again:
        archive.close()


@pytest.mark.one_in(3)
def test_a_full_server_is_told_of_and_archives_are_erased_meanwhile(
    server: Server,
    make_backend: Callable[[str], Backend],
    archives: list[Archive],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is tried again, until there is memory for the copy."""
    hot: Any = make_backend(server.name).open(retry_seconds=0)
    plant(hot)
    worker = DrainWorker(hot, archives, trim="never", claim_seconds=0.1)
    worker.drain_once()
    server.raw.config_set("maxmemory", 1)
    try:
        hot.erase("r", [3])
        worker.drain_once()
        assert not parked(hot)
        assert "no memory" in caplog.text
        assert not is_in_files(tmp_path)
        places = hot.erasures("r")[0].places
        assert [place.done for place in places] == [False, True, True]
    finally:
        server.raw.config_set("maxmemory", 0)
    eventually(lambda: worker.drain_once().runs)
    check_gone(hot, archives, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.one_in(2, exhaustively=2)
@pytest.mark.parametrize("is_retired", [False, True])
def test_a_reader_of_an_archive_hinders_an_erasure_no_longer_than_it_reads(
    hot: Hot, archives: list[Archive], tmp_path: Path, caplog: pytest.LogCaptureFixture, is_retired: bool
) -> None:
    """The run is not parked, and not tried all the while: it is done once the reader has finished."""
    plant(hot)
    hot.append("r", [make_event("r", 6, kind=EventKind.RUN_FINISHED)])
    worker = DrainWorker(hot, archives, claim_seconds=0.1, retire_after_seconds=0 if is_retired else None)
    worker.drain_once()
    database = next(archive.location for archive in archives if archive.location.startswith("sqlite:"))
    with closing(sqlite3.connect(database.removeprefix("sqlite:"))) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        hot.erase("r", [3])
        worker.drain_once()
        assert "a reader holds its write-ahead log" in caplog.text
        assert not parked(hot)
        assert not hot.erasures("r")[0].done
    eventually(lambda: worker.drain_once().runs)
    check_gone(hot, archives, tmp_path, last=6)


@pytest.mark.parametrize("before", [None, 5])
def test_what_is_put_back_into_redis_from_a_copy_is_erased_again(
    hot: Hot, archives: list[Archive], tmp_path: Path, before: int | None
) -> None:
    """Redis knows what was asked for of this run, and where its history begins."""
    plant(hot)
    DrainWorker(hot, archives).drain_once()
    shutil.copytree(tmp_path / "archives", tmp_path / "copy")
    hot.erase("r", [3])
    if before is not None:
        hot.truncate("r", before=before)
    DrainWorker(hot, archives).drain_once()
    (tmp_path / "copy").rename(tmp_path / "archives" / "copy")
    again = open_archives(tmp_path / "archives" / "copy")
    put_back(hot, again[0], "r", whole=True)
    DrainWorker(hot, archives).drain_once()
    eventually(lambda: all(one.done for one in hot.erasures("r")))
    assert left(hot) == ([1, 2, 4, 5] if before is None else [5])
    for archive in again:
        archive.close()
    for archive in archives:
        assert verify_run("r", hot=hot, sinks=[archive]).difference is None


def test_what_a_retired_run_had_is_erased(hot: Hot, archives: list[Archive], tmp_path: Path) -> None:
    plant(hot)
    hot.append("r", [make_event("r", 6, kind=EventKind.RUN_FINISHED)])
    worker = DrainWorker(hot, archives, retire_after_seconds=0)
    assert worker.drain_once().retired == 1
    hot.erase("r", [3])
    assert due(hot)
    worker.drain_once()
    check_gone(hot, archives, tmp_path, last=6)
    hot.append("r", make_events("r", 1, first=7))
    worker.drain_once()
    check_gone(hot, archives, tmp_path, last=7)


def test_a_truncated_run_begins_later_in_every_archive(hot: Hot, archives: list[Archive], tmp_path: Path) -> None:
    plant(hot)
    worker = DrainWorker(hot, archives, trim="archived")
    worker.drain_once()
    plant(hot, first=6)
    with pytest.raises(EventsArchived):
        hot.truncate("r", before=5)
    with closing(TieredCheckpointer(hot, archives[0])) as tiered:
        tiered.truncate("r", before=5)
        assert left(tiered) == list(range(5, 11))
    worker.drain_once()
    eventually(lambda: all(one.done for one in hot.erasures("r")))
    for archive in archives:
        assert left(archive) == list(range(5, 11))
        with closing(TieredCheckpointer(hot, archive)) as tiered:
            assert left(tiered) == list(range(5, 11))
        assert not verify_run("r", hot=hot, sinks=[archive]).difference


def test_a_run_that_is_truncated_before_it_is_archived_begins_later_in_every_archive(
    hot: Hot, archives: list[Archive], tmp_path: Path
) -> None:
    plant(hot)
    hot.truncate("r", before=4)
    DrainWorker(hot, archives).drain_once()
    assert not parked(hot)
    assert not is_in_files(tmp_path)
    for archive in archives:
        assert left(archive) == [4, 5]
        assert not verify_run("r", hot=hot, sinks=[archive]).difference
    assert namespace_of(hot).load_runs(["r"])[0].head.mark.offset == 5  # type: ignore[union-attr]
