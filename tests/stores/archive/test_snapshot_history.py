"""The archive keeps the snapshots that it saw, and tells which of them a run had at an offset."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint as foreign

from runstream import (
    AsyncRedisCheckpointer,
    ConfigurationError,
    DrainWorker,
    JSONLCheckpointer,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from runstream.model.archive_records import ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.protocols import SnapshotHistory
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl import snapshot_history_file
from runstream.stores.tiered import AsyncTieredCheckpointer, TieredCheckpointer
from tests.stores.archive.snapshot_tools import (
    KINDS,
    checkpoint,
    checkpoint_after,
    history,
    open_at,
    opened_again,
    step_of,
)
from tests.support.archive_check import Archive
from tests.support.backends import FakeBackend, LoopThread
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events, make_state


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def archive(kind: str, tmp_path: Path) -> Iterator[Archive]:
    with closing(open_at(kind, tmp_path / "archive")) as archive:
        yield archive


def given(token: str, revision: int, offset: int, lane_id: str | None = None) -> ArchiveSnapshot:
    """A snapshot as a drain worker hands it over."""
    data = f'{{"run_id": "r", "status": "running", "current_step": {offset}}}'
    return ArchiveSnapshot(lane_id, offset, revision, token, data)


START = Cursor(0, 7)


def write(archive: Archive, *snapshots: ArchiveSnapshot) -> None:
    archive.write([RunBatch(RunHeader("r", START), START, (), snapshots)])


# -- as a store of its own


def test_each_snapshot_is_kept_and_found_by_offset(archive: Archive) -> None:
    archive.save_events(make_events("r", 2))
    archive.recover("r")
    checkpoint(archive, 3, first=3)
    archive.save_events(make_events("r", 2, first=6))
    for opened in (archive, opened_again(archive)):
        assert isinstance(opened, SnapshotHistory)
        assert history(opened) == [(3, 1, 3), (4, 2, 4), (5, 3, 5)]
        assert [step_of(opened.snapshot_at("r", at)) for at in range(9)] == [None, None, None, 3, 4, 5, 5, 5, 5]
        assert step_of(opened.load_snapshot("r")) == 5
        assert opened.snapshot_lanes("r") == [None]


def test_the_run_and_each_lane_have_their_own(archive: Archive) -> None:
    checkpoint(archive, 2, lane_id="a")
    checkpoint(archive, 2, first=3, lane_id="b")
    archive.recover("r")
    checkpoint(archive, 1, first=5)
    assert history(archive) == [(5, 1, 5)]
    assert history(archive, lane_id="a") == [(1, 1, 1), (2, 2, 2)]
    assert history(archive, lane_id="b") == [(3, 1, 3), (4, 2, 4)]
    assert step_of(archive.snapshot_at("r", 3, lane_id="b")) == 3
    assert archive.snapshot_at("r", 2, lane_id="b") is None
    assert archive.snapshot_at("r", 4) is None
    assert archive.snapshot_lanes("r") == [None, "a", "b"]


def test_of_those_that_cover_the_same_the_last_counts(archive: Archive) -> None:
    checkpoint(archive, 2)
    for step in (20, 30):
        archive.save_snapshot("r", make_state("r", current_step=step))
    assert step_of(archive.snapshot_at("r", 2)) == 30
    assert step_of(archive.snapshot_at("r", 1)) == 1
    assert [step for _, _, step in history(archive)] == [1, 2, 20, 30]


def test_a_run_that_is_not_there_has_none(archive: Archive) -> None:
    assert history(archive) == []
    assert archive.snapshot_at("r", 5) is None
    assert archive.snapshot_lanes("r") == []


def test_an_offset_is_a_whole_number(archive: Archive) -> None:
    for offset in (-1, 1.5, "3", True):
        with pytest.raises(ConfigurationError):
            archive.snapshot_at("r", offset)  # type: ignore[arg-type]  # what is refused


def test_to_look_at_the_past_says_nothing_of_what_a_writer_has_seen(archive: Archive) -> None:
    """Who has looked at it has not loaded it: saving over another's is a conflict still."""
    checkpoint(archive, 2)
    other = opened_again(archive)
    assert step_of(other.snapshot_at("r", 2)) == 2
    assert len(history(other)) == 2
    with pytest.raises(Exception, match="snapshot"):
        other.append("r", [], snapshot=make_state("r"))


def test_a_refused_append_leaves_nothing(archive: Archive) -> None:
    checkpoint(archive, 2)
    with pytest.raises(Exception, match="offset"):
        archive.append("r", make_events("r", 1), expected_offset=1, snapshot=make_state("r", current_step=99))
    assert [step for _, _, step in history(archive)] == [1, 2]


# -- as a sink


def test_a_sink_keeps_what_it_is_given_once(archive: Archive) -> None:
    write(archive, given("one", 1, 0))
    write(archive, given("one", 1, 0))
    write(archive, given("three", 3, 0), given("of a lane", 1, 0, "a"))
    write(archive, given("two", 2, 0))  # of a worker that was paused
    write(archive, given("three", 3, 0))
    for opened in (archive, opened_again(archive)):
        assert [revision for _, revision, _ in history(opened)] == [1, 3]
        assert [revision for _, revision, _ in history(opened, lane_id="a")] == [1]


def test_two_of_one_lane_in_one_batch_are_both_kept(archive: Archive) -> None:
    if isinstance(archive, SQLiteCheckpointer):
        write(archive, given("one", 1, 0), given("two", 2, 0))
        assert [revision for _, revision, _ in history(archive)] == [1, 2]


def test_a_sink_that_refuses_keeps_nothing(archive: Archive) -> None:
    write(archive, given("one", 1, 0))
    wrong = RunBatch(RunHeader("other", START), Cursor(5, 5), (), (given("x", 9, 0),))
    with pytest.raises(Exception, match="hole"):
        archive.write([RunBatch(RunHeader("r", START), START, (), (given("two", 2, 0),)), wrong])
    assert [revision for _, revision, _ in history(archive)] == [1]


# -- what takes it away


def test_it_goes_with_the_run(archive: Archive) -> None:
    checkpoint(archive, 3)
    checkpoint(archive, 1, run_id="other")
    assert archive.delete_run("r")
    assert history(archive) == []
    assert len(history(archive, "other")) == 1
    checkpoint(archive, 1)
    assert history(archive) == [(1, 1, 1)]
    assert operations_of(archive).delete_history("r", None)
    assert history(archive) == []
    if isinstance(archive, JSONLCheckpointer):
        assert not (operations_of(archive)._logs.path / "r").exists()


def cut(archive: Archive, to: int, *tokens: ArchiveSnapshot) -> None:
    header = operations_of(archive).header("r")
    assert header is not None
    cursors = [header.start, *(Cursor.parse(item.cursor) for item in archive.read("r"))]
    named = {one.lane_id: one.token for one in tokens}
    operations_of(archive).cut_back(header, Position(cursors[to], named), cursors[-1])


def test_a_branch_that_is_cut_off_takes_its_snapshots_with_it(archive: Archive) -> None:
    """What the kept history has seen stays: up to the snapshot that it names."""
    checkpoint(archive, 3)
    (third,) = archive.read_back_snapshots("r")
    checkpoint(archive, 3, first=4)
    cut(archive, 4, third)
    for opened in (archive, opened_again(archive)):
        assert history(opened) == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
        assert opened.snapshot_lanes("r") == [None]
    checkpoint_after(archive, 5)
    assert [offset for offset, _, _ in history(archive)] == [1, 2, 3, 5]
    cut(archive, 5, *archive.read_back_snapshots("r"))  # nothing to cut
    assert [offset for offset, _, _ in history(archive)] == [1, 2, 3, 5]


def test_a_lane_that_the_kept_history_has_no_snapshot_of_loses_all(archive: Archive) -> None:
    checkpoint(archive, 3, lane_id="a")
    (of_lane,) = archive.read_back_snapshots("r")
    archive.recover("r")
    checkpoint(archive, 2, first=4)
    cut(archive, 4, of_lane)
    assert [step for _, _, step in history(archive, lane_id="a")] == [1, 2, 3]
    assert history(archive) == []


def test_where_the_kept_history_has_a_later_one_what_is_common_stays(archive: Archive) -> None:
    checkpoint(archive, 5)
    cut(archive, 3, given("which the archive has not seen", 9, 3))
    assert [step for _, _, step in history(archive)] == [1, 2, 3]


def test_of_another_history_nothing_stays(archive: Archive) -> None:
    checkpoint(archive, 3)
    header = operations_of(archive).header("r")
    position = archive.position("r")
    assert header is not None
    assert position is not None
    other = Cursor(0, header.start.chain + 1)
    operations_of(archive).cut_back(
        replace(header, start=other), Position(other, position.snapshots), position.cursor
    )
    assert [step for _, _, step in history(archive)] == [3]  # which the kept history has named


def test_a_batch_that_is_cut_in_the_middle_leaves_the_snapshot_that_is_named(archive: Archive) -> None:
    """The mark that named it goes with the end of the batch."""
    archive.append("r", make_events("r", 5), snapshot=make_state("r", current_step=5))
    (latest,) = archive.read_back_snapshots("r")
    # one that covers less: the drain has taken later events with it
    named = latest._replace(offset=2, revision=2, token="named")
    header, position = operations_of(archive).header("r"), archive.position("r")
    assert header is not None
    assert position is not None
    archive.write([RunBatch(header, position.cursor, (), (named,))])
    cut(archive, 3, named)
    assert history(archive) == [(2, 2, 5)]
    archive.save_snapshot("r", make_state("r", current_step=50))
    for opened in (archive, opened_again(archive)):
        assert [revision for _, revision, _ in history(opened)] == [2, 3]


# -- files of other versions, and of purpose-agent


def test_a_sqlite_file_of_before_gets_the_table_and_keeps_what_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    with closing(SQLiteCheckpointer[Any, Any](path)) as archive:
        checkpoint(archive, 3)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE snapshot_history")
    with closing(SQLiteCheckpointer[Any, Any](path)) as archive:
        assert [step for _, _, step in history(archive)] == [3]
        checkpoint_after(archive, 4)
        assert [step for _, _, step in history(archive)] == [3, 4]
        assert archive.check_integrity() == []


def test_a_jsonl_directory_of_before_keeps_what_is_replaced(tmp_path: Path) -> None:
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        checkpoint(archive, 3)
        (tmp_path / "r" / "snapshots.jsonl").unlink()
        assert [step for _, _, step in history(archive)] == [3]
        checkpoint(archive, 1, first=4)
        assert [step for _, _, step in history(archive)] == [3, 4]


def test_purpose_agents_readers_see_the_latest_and_nothing_else(archive: Archive) -> None:
    checkpoint(archive, 3)
    path = archive.location.partition(":")[2]
    is_sqlite = isinstance(archive, SQLiteCheckpointer)
    reader = foreign.SQLiteCheckpointer(path) if is_sqlite else foreign.JSONLCheckpointer(path)
    assert reader.load_latest("r").current_step == 3
    assert [event.seq for event in reader.list_events("r")] == [1, 2, 3]
    if is_sqlite:
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT count(*) FROM snapshots").fetchone() == (1,)


# -- JSONL: what is written and not committed does not count


def test_a_line_whose_batch_was_never_committed_does_not_count(tmp_path: Path) -> None:
    """At every file operation of a checkpoint: the history has just what a run that stands there has seen."""
    place, copies = tmp_path / "archive", tmp_path / "copies"
    copies.mkdir()
    with closing(JSONLCheckpointer[Any, Any](place)) as archive:
        checkpoint(archive, 2)

        def keep_a_copy(*_: object) -> None:
            shutil.copytree(place, copies / str(len(list(copies.iterdir()))))

        with StoppingAtWrites(keep_a_copy):
            checkpoint(archive, 1, first=3)
    found = set()
    for copy in sorted(copies.iterdir(), key=lambda path: int(path.name)):
        with closing(JSONLCheckpointer[Any, Any](copy)) as archive:
            position = archive.position("r")
            assert position is not None
            last = position.cursor.offset
            found.add((last, len(snapshot_lines(copy))))
            assert [step for _, _, step in history(archive)] == list(range(1, last + 1))
            assert step_of(archive.load_snapshot("r")) == last
            checkpoint_after(archive, last + 1)
            assert [step for _, _, step in history(archive)] == list(range(1, last + 2))
    assert found >= {(2, 2), (2, 3), (3, 3)}


def snapshot_lines(directory: Path) -> list[Any]:
    lines = (directory / "r" / "snapshots.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines if line.endswith(b"}")]


class StoppingAtWrites:
    """Call something before every write and every fsync of the JSONL store, and in the middle of each write."""

    def __init__(self, act: Any) -> None:
        self._act = act
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        real_write, real_sync = os.write, os.fsync

        def write_in_two(handle: int, data: Any) -> int:
            self._act()
            done = real_write(handle, bytes(data)[: len(data) // 2] or bytes(data))
            self._act()
            return done

        def sync_after(handle: int) -> None:
            self._act()
            real_sync(handle)
            self._act()

        self._patch.setattr(os, "write", write_in_two)
        self._patch.setattr(os, "fsync", sync_after)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_a_torn_line_is_passed_over_and_gone_on_after(tmp_path: Path) -> None:
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        checkpoint(archive, 2)
        path = tmp_path / "r" / "snapshots.jsonl"
        for torn in (b'{"run_id":"r","current', b"\0" * 5000, b'{"a":1}\n', b"[]\n\n"):
            with path.open("ab") as file:
                file.write(torn)
            checkpoint(archive, 1, first=len(history(archive)) + 1)
        assert [step for _, _, step in history(archive)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("where", ["snapshot", "events"])
def test_what_a_full_disk_refused_takes_up_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        checkpoint(archive, 2)
        path = tmp_path / "r" / "snapshots.jsonl"
        before = path.read_bytes()
        target = path if where == "snapshot" else tmp_path / "r" / "events.jsonl"
        real = os.write

        def refuse(handle: int, data: Any) -> int:
            if os.path.samestat(os.fstat(handle), target.stat()):
                real(handle, bytes(data)[:10])
                raise OSError(28, "No space left on device")
            return real(handle, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    checkpoint(archive, 1, first=3)
                assert path.read_bytes() == before
        checkpoint(archive, 1, first=3)
        assert [step for _, _, step in history(archive)] == [1, 2, 3]


def test_a_crash_while_old_ones_are_dropped_loses_none_of_the_others(tmp_path: Path) -> None:
    place, copies = tmp_path / "archive", tmp_path / "copies"
    copies.mkdir()
    with closing(JSONLCheckpointer[Any, Any](place, keep_snapshots=2)) as archive:
        checkpoint(archive, 4)

        def keep_a_copy(*_: object) -> None:
            shutil.copytree(place, copies / str(len(list(copies.iterdir()))))

        with StoppingAtWrites(keep_a_copy):
            checkpoint(archive, 1, first=5)
        assert len(snapshot_lines(place)) == 2
    for copy in copies.iterdir():
        with closing(JSONLCheckpointer[Any, Any](copy, keep_snapshots=2)) as archive:
            position = archive.position("r")
            assert position is not None
            last = position.cursor.offset
            assert [step for _, _, step in history(archive)] == [last - 1, last]
            checkpoint_after(archive, last + 1)
            assert [step for _, _, step in history(archive)] == [last, last + 1]
            left = sorted(path.name for path in (copy / "r").iterdir() if "torn" not in path.name)
            assert left == ["events.jsonl", "snapshot.json", "snapshots.jsonl"]


def test_a_line_is_found_where_it_lies_by_now(tmp_path: Path) -> None:
    """Old ones are dropped by another writer while somebody goes through the history."""
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as reader:
        checkpoint(reader, 10)
        found = reader.snapshot_history("r")
        assert step_of(next(found)) == 1
        with closing(JSONLCheckpointer[Any, Any](tmp_path, keep_snapshots=3)) as writer:
            checkpoint_after(writer, 11)
        assert [step_of(one) for one in found] == [9, 10]
        assert snapshot_history_file.SnapshotHistoryFile(tmp_path / "r", "r").exists()


# -- of a run that is drained


@pytest.fixture
def backend(namespace: str) -> Iterator[FakeBackend]:
    with closing(FakeBackend(namespace)) as backend:
        yield backend


@pytest.fixture
def hot(backend: FakeBackend) -> RedisCheckpointer[Any, Any]:
    store = backend.open()
    assert isinstance(store, RedisCheckpointer)
    return store


@pytest.mark.one_in(2)
def test_the_drain_sees_those_that_are_the_latest_when_it_looks(
    hot: RedisCheckpointer[Any, Any], archive: Archive
) -> None:
    tiered = TieredCheckpointer(hot, archive)
    worker = DrainWorker(hot, [archive], trim="archived")
    for first in (1, 4, 7):
        checkpoint(tiered, 3, first=first)
        worker.drain_once()
        worker.drain_once()
    assert [step for _, _, step in history(archive)] == [3, 6, 9]
    checkpoint(tiered, 2, first=10)
    assert isinstance(tiered, SnapshotHistory)
    assert [step for _, _, step in history(tiered)] == [3, 6, 9, 11]
    assert [step_of(tiered.snapshot_at("r", at)) for at in (0, 2, 3, 5, 6, 9, 10, 11, 50)] == [
        *(None, None, 3, 3, 6, 9, 9, 11, 11)
    ]
    worker.drain_once()
    assert [step for _, _, step in history(tiered)] == [3, 6, 9, 11]
    assert tiered.snapshot_lanes("r") == [None]


def test_of_a_run_that_has_left_redis_the_archive_tells_all(
    hot: RedisCheckpointer[Any, Any], archive: Archive
) -> None:
    tiered = TieredCheckpointer(hot, archive)
    worker = DrainWorker(hot, [archive], trim="archived", retire_after_seconds=0.0)
    checkpoint(tiered, 2, lane_id="a")
    worker.drain_once()
    tiered.save_event(make_event("r", 3, kind="run.finished"))
    assert worker.drain_once().retired == 1
    assert tiered.snapshot_lanes("r") == ["a"]
    assert [step for _, _, step in history(tiered, lane_id="a")] == [2]
    assert step_of(tiered.snapshot_at("r", 3, lane_id="a")) == 2
    assert tiered.snapshot_at("r", 1, lane_id="a") is None


def test_to_look_through_the_tiers_says_nothing_of_what_a_writer_has_seen(
    backend: FakeBackend, hot: RedisCheckpointer[Any, Any], archive: Archive
) -> None:
    checkpoint(hot, 2)
    other = backend.open()
    assert isinstance(other, RedisCheckpointer)
    tiered = TieredCheckpointer(other, archive)
    assert step_of(tiered.snapshot_at("r", 2)) == 2
    assert len(history(tiered)) == 1
    with pytest.raises(Exception, match="snapshot"):
        tiered.append("r", [], snapshot=make_state("r"))


def test_the_same_awaited(backend: FakeBackend, loop_thread: LoopThread, archive: Archive) -> None:
    hot = backend.open()
    assert isinstance(hot, RedisCheckpointer)
    checkpoint(hot, 2)
    DrainWorker(hot, [archive]).drain_once()
    checkpoint(hot, 1, first=3)

    async def look() -> tuple[Any, ...]:
        client = backend.async_client()
        async with AsyncRedisCheckpointer[Any, Any](client, namespace=backend.namespace) as awaited:
            tiered = AsyncTieredCheckpointer(awaited, archive)
            found = [one.state.current_step async for one in tiered.snapshot_history("r")]
            at = [step_of(await tiered.snapshot_at("r", offset)) for offset in range(5)]
            lanes = await tiered.snapshot_lanes("r")
        await client.aclose()
        return found, at, lanes

    assert loop_thread.run(look()) == ([2, 3], [None, None, 2, 3, 3], [None])
