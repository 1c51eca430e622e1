"""What a person puts right in an archive: a branch is cut back as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    EventKind,
    HistoryDiverged,
    JSONLCheckpointer,
    PAEvent,
    RunState,
    SQLiteCheckpointer,
    create_event,
)
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.results import Cursor
from runstream.stores import capabilities
from tests.support.archive_check import Archive, archive_faults
from tests.support.mortal import Killed
from tests.support.operations import last_seq, operations_of


@pytest.fixture(params=["sqlite", "jsonl"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An archive of either kind."""
    with closing(open_at(request.param, tmp_path / "archive")) as archive:
        yield archive


def open_at(kind: str, path: Path | str) -> Archive:
    return SQLiteCheckpointer[Any, Any](path) if kind == "sqlite" else JSONLCheckpointer[Any, Any](path)


def open_again(archive: Archive) -> Archive:
    kind, _, path = archive.location.partition(":")
    return open_at(kind, path)


def fill(archive: Archive) -> tuple[list[PAEvent], list[Cursor], RunHeader]:
    """Twelve events in three batches and two lanes, with keys and snapshots of both, ended."""
    events = [create_event("r", EventKind.TOOL_RESULT, lane_id="ab"[seq > 4], seq=seq) for seq in range(1, 12)]
    events.append(create_event("r", EventKind.RUN_FINISHED, lane_id="a", seq=12))
    archive.save_snapshot("r", RunState("r", current_step=3), lane_id="a")  # it covers nothing: no cut takes it
    archive.append("r", events[:3], keys=[None, "two", None])
    archive.append("r", events[3:8], keys=[None, None, "six", None, "eight"])
    archive.append("r", events[8:], snapshot=RunState("r", current_step=12))
    archive.append("other", [create_event("other", "x")])
    cursors = [Cursor.parse(item.cursor) for item in archive.read("r")]
    header = operations_of(archive).header("r")
    assert header is not None
    return events, [header.start, *cursors], header


def tokens(archive: Archive) -> dict[str | None, str]:
    return {one.lane_id: one.token for one in archive.read_back_snapshots("r")}


def redis_says(header: RunHeader) -> RunHeader:
    """What the history that is kept says of the run: it is behind."""
    return RunHeader("r", header.start, "session", "running", header.created_at, header.updated_at - 100)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("to", range(13))
def test_what_comes_after_the_place_is_gone_and_nothing_else(archive: Archive, to: int) -> None:
    """Events, keys, lanes, status and snapshots are what they were there; in the middle of a batch too."""
    events, cursors, header = fill(archive)
    before = tokens(archive)
    place = Position(cursors[to], before if to == 12 else {"a": before["a"]})
    operations_of(archive).cut_back(redis_says(header), place, cursors[12])
    for opened in (archive, open_again(archive)):
        assert opened.position("r") == place
        assert list(archive_faults(opened, "r", events[:to])) == []
        info = opened.run_info("r")
        assert info is not None
        if to < 12:
            assert (info.status, info.session_id, info.updated_at) == (
                "running",
                "session",
                header.updated_at - 100,
            )
            assert opened.load_latest("r") is None
        assert (info.last_offset, info.first_hot, info.created_at) == (to, 1, header.created_at)
        state = opened.load_snapshot("r", lane_id="a")
        assert state is not None
        assert state.state.current_step == 3
        of_lanes = {lane: [event.seq for event in events[:to] if event.lane_id == lane] for lane in "ab"}
        assert {lane: last_seq(opened, "r", lane) for lane in "ab"} == {
            lane: seqs[-1] if seqs else 0 for lane, seqs in of_lanes.items()
        }
        assert len(opened.list_events("other")) == 1
    # it goes on from there: a key that was cut off is new again, another one is not
    with closing(open_again(archive)) as opened:
        assert opened.append("r", [create_event("r", "x")], keys=["two"]).first_offset == (2 if to > 1 else to + 1)
        last = opened.append("r", [create_event("r", "x")], keys=["six"]).first_offset
        assert last == (6 if to > 5 else to + 1 + (to < 2))
        opened.save_snapshot("r", RunState("r", current_step=50))
    latest = archive.load_latest("r")
    assert latest is not None
    assert latest.current_step == 50
    assert [item.offset for item in archive.read("r")][:to] == list(range(1, to + 1))


def test_cutting_twice_is_cutting_once(archive: Archive) -> None:
    _, cursors, header = fill(archive)
    position = Position(cursors[5], {})
    operations_of(archive).cut_back(redis_says(header), position, cursors[12])
    operations_of(archive).cut_back(redis_says(header), position, cursors[12])
    assert archive.position("r") == position
    archive.append("r", [create_event("r", "new")])
    with pytest.raises(ConcurrencyConflict) as conflict:
        operations_of(archive).cut_back(redis_says(header), position, cursors[12])
    assert (conflict.value.expected, conflict.value.actual) == (12, 6)
    assert len(archive.list_events("r")) == 6


def test_an_archive_that_stands_elsewhere_is_left_alone(archive: Archive) -> None:
    events, cursors, header = fill(archive)
    for to, expected, error in (
        (cursors[5], cursors[11], ConcurrencyConflict),
        (cursors[5], Cursor(12, 1), ConcurrencyConflict),
        (Cursor(5, 1), cursors[12], HistoryDiverged),
        (Cursor(13, 1), cursors[12], HistoryDiverged),
    ):
        with pytest.raises(error):
            operations_of(archive).cut_back(redis_says(header), Position(to), expected)
    with pytest.raises(ConcurrencyConflict):
        operations_of(archive).cut_back(RunHeader("nobody", Cursor(0, 1)), Position(Cursor(0, 1)), Cursor(5, 5))
    other_start = RunHeader("r", Cursor(0, 1))
    with pytest.raises(HistoryDiverged):
        operations_of(archive).cut_back(other_start, Position(cursors[5]), cursors[12])
    assert list(archive_faults(archive, "r", events)) == []
    assert len(tokens(archive)) == 2


def test_of_another_history_nothing_stays_and_the_new_one_is_taken(archive: Archive) -> None:
    """The run was made anew: the archive begins where the new one does."""
    _, cursors, _ = fill(archive)
    start = Cursor(0, 4711)
    header = RunHeader("r", start, "new", "running", 5.0, 6.0)
    operations_of(archive).cut_back(header, Position(start), cursors[12])
    operations_of(archive).cut_back(header, Position(start), cursors[12])
    for opened in (archive, open_again(archive)):
        assert opened.position("r") == Position(start)
        assert operations_of(opened).header("r") == header
        assert opened.list_events("r") == []
        assert last_seq(opened, "r", "a") == 0
    archive.write([RunBatch(header, start, [ArchiveEntry(1, 5, None, '{"run_id":"r","ts":1.0,"kind":"x"}')])])
    assert [item.offset for item in archive.read("r")] == [1]


def test_what_was_kept_aside_goes_with_its_branch(archive: Archive) -> None:
    header = RunHeader("r", Cursor(0, 1), created_at=1.0, updated_at=2.0)
    archive.write([RunBatch(header, header.start, [ArchiveEntry(n, n, None, None, b"raw") for n in (1, 2, 3)])])
    operations_of(archive).cut_back(header, Position(Cursor(2, 2)), Cursor(3, 3))
    with closing(open_again(archive)) as opened:
        assert [entry.offset for _, entry in opened.quarantine()] == [1, 2]


def test_a_run_knows_what_it_is_a_branch_of(archive: Archive) -> None:
    header = RunHeader("r~2-2", Cursor(1, 1), "s", "running", 5.0, 6.0, parent=("r", 1))
    snapshot = ArchiveSnapshot(None, 1, 1, "t", '{"run_id":"r~2-2"}')
    entry = ArchiveEntry(2, 2, None, '{"run_id":"r~2-2","ts":1.0,"kind":"x"}')
    archive.write([RunBatch(header, header.start, [entry])])
    archive.write([RunBatch(header, Cursor(2, 2), (), [snapshot])])
    for opened in (archive, open_again(archive)):
        assert operations_of(opened).header("r~2-2") == header
        info = opened.run_info("r~2-2")
        assert info is not None
        assert (info.parent, info.first_hot) == (("r", 1), 2)
        assert [one.parent for one in opened.runs()] == [("r", 1)]
    operations_of(archive).cut_back(RunHeader("r~2-2", header.start), Position(header.start), Cursor(2, 2))
    again = operations_of(open_again(archive)).header("r~2-2")
    assert again is not None
    assert again.parent == header.parent
    assert capabilities.part_of(archive, capabilities.Archive) is not None


_STEPS = ("open", "write", "fsync", "replace", "unlink", "ftruncate")


def test_a_log_is_cut_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies before each thing that it does to a file: what is there is the one or the other history."""
    point, died, seen = 0, True, set()
    while died:
        point += 1
        directory = tmp_path / str(point)
        with closing(JSONLCheckpointer[Any, Any](directory)) as archive:
            events, cursors, header = fill(archive)
            stay = Position(cursors[5], {"a": tokens(archive)["a"]})
            left = [point]

            def dying(original: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
                def step(*args: Any, **options: Any) -> Any:
                    left[0] -= 1
                    if left[0] <= 0:
                        raise Killed
                    return original(*args, **options)

                return step

            died = False
            with monkeypatch.context() as patched:
                for name in _STEPS:
                    patched.setattr(os, name, dying(getattr(os, name)))
                try:
                    operations_of(archive).cut_back(redis_says(header), stay, cursors[12])
                except Killed:
                    died = True
        with closing(JSONLCheckpointer[Any, Any](directory)) as again:
            position = again.position("r")
            assert position is not None
            seen.add(position.cursor.offset)
            cut = position.cursor == cursors[5]
            assert list(archive_faults(again, "r", events[: 5 if cut else 12])) == []
            assert set(position.snapshots) == ({"a"} if cut else {None, "a"})
            assert (again.load_latest("r") is None) == cut
            operations_of(again).cut_back(redis_says(header), stay, cursors[12])
            assert again.position("r") == stay
            again.append("r", events[5:6])
            assert again.load_latest("r") is None
            names = sorted(path.name for path in (directory / "r").iterdir())
            assert names == ["events.jsonl", "snapshot-a.json", "snapshots.jsonl"]
    print(f"{point - 1} points")
    assert seen == {5, 12}
    assert point > 8
