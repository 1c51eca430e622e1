"""purpose-agent's own store at work on a directory that is open here: it knows no locks, and no drains."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from purpose_agent.runtime import checkpoint, events
from purpose_agent.runtime.state import RunState as ForeignState

import runstream
from runstream.model.archive_records import ArchiveSnapshot, Position
from runstream.model.errors import ConcurrencyConflict, CorruptRecordError, StoreUnavailable
from runstream.stores.archive.jsonl import JSONLCheckpointer, run_log, write_batch
from runstream.stores.archive.jsonl.file_locks import write_all
from runstream.stores.archive.jsonl.overtaking import blank
from tests.stores.archive.jsonl.lines import START, Store, batch, event, history, log_of, numbers, state
from tests.support.operations import operations_of

Overtake: TypeAlias = Callable[[checkpoint.JSONLCheckpointer, str, Iterable[int]], None]


@pytest.fixture
def theirs(tmp_path: Path) -> checkpoint.JSONLCheckpointer:
    return checkpoint.JSONLCheckpointer(str(tmp_path))


def save(store: checkpoint.JSONLCheckpointer, number: int, run_id: str = "r") -> None:
    kind = events.EventKind.TOOL_RESULT
    store.save_event(events.PAEvent(run_id, seq=number, kind=kind, payload={"number": number}))


def read_by(store: checkpoint.JSONLCheckpointer, run_id: str = "r") -> list[int]:
    return [found.payload["number"] for found in store.list_events(run_id)]


# -- faster than a batch of ours ------------------------------------------------------------------------------


@pytest.fixture
def overtake(monkeypatch: pytest.MonkeyPatch) -> Overtake:
    """Let them write right before a batch of ours is, after all was planned."""

    def install(theirs: checkpoint.JSONLCheckpointer, run_id: str, numbers: Iterable[int]) -> None:
        left = iter(numbers)

        def overtaken(handle: int, text: bytes) -> None:
            if f'"run_id":"{run_id}"'.encode() in text:
                for number in itertools.islice(left, 1):
                    save(theirs, number, run_id)
            write_all(handle, text)

        monkeypatch.setattr(run_log, "write_all", overtaken)

    return install


@pytest.mark.parametrize("before", [0, 2])
def test_a_batch_that_their_line_overtakes_comes_after_it(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, before: int, overtake: Overtake
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events([event("r", number) for number in range(1, before + 1)])
        overtake(theirs, "r", [101, 102])
        appended = store.append("r", [event("r", 7), event("r", 8)], snapshot=state("r", 3))
        assert (appended.first_offset, appended.last_offset) == (before + 3, before + 4)
        expected = [*range(1, before + 1), 101, 102, 7, 8]
        assert numbers(store, "r") == read_by(theirs) == expected
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == expected
        assert store.load_latest("r") is not None
        assert len(list(store.snapshot_history("r"))) == 1


def test_a_batch_that_must_come_right_after_an_offset_is_refused_when_it_is_overtaken(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, overtake: Overtake
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        overtake(theirs, "r", [101])
        with pytest.raises(ConcurrencyConflict):
            store.append("r", [event("r", 2)], expected_offset=1)
        assert numbers(store, "r") == read_by(theirs) == [1, 101]


def test_of_several_runs_only_what_was_overtaken_is_written_again(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, overtake: Overtake
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events([event(run_id, 1) for run_id in "abc"])
        overtake(theirs, "b", [101])
        store.save_events([event(run_id, 2) for run_id in "abc"])
        assert [numbers(store, run_id) for run_id in "abc"] == [[1, 2], [1, 101, 2], [1, 2]]
        assert read_by(theirs, "a") == [1, 2]


def test_a_writer_that_is_killed_when_it_was_overtaken_has_written_nothing(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, overtake: Overtake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        overtake(theirs, "r", [101])
        with monkeypatch.context() as patched:
            patched.setattr(run_log, "blank", killed)
            with pytest.raises(KeyboardInterrupt):
                store.append("r", [event("r", 2)], snapshot=state("r", 9))
        for each in (store, JSONLCheckpointer(tmp_path)):
            assert numbers(each, "r") == [1, 101]
            assert each.load_latest("r") is None
        store.save_event(event("r", 3))
        assert numbers(store, "r") == numbers(JSONLCheckpointer(tmp_path), "r") == [1, 101, 3]


@pytest.mark.parametrize("drained", [False, True])
def test_a_line_that_comes_while_a_torn_batch_is_set_aside_is_kept(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, drained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = history("r", START, [event("r", 1), event("r", 2)])
    torn = b'{"run_id":"r","session_id":"","lane_id":"m'
    with JSONLCheckpointer(tmp_path) as store:
        store.write([batch("r", START, entries[:1])]) if drained else store.save_event(event("r", 1))
        with log_of(tmp_path).open("ab") as file:
            file.write(torn)

        def blanked_late(path: Path, begin: int, length: int) -> bytes:
            if (log_of(tmp_path).parent / "events.jsonl.torn-1").stat().st_size == len(torn) and not read:
                save(theirs, 101)
                read.append(True)
            return blank(path, begin, length)

        read: list[bool] = []
        monkeypatch.setattr(run_log, "blank", blanked_late)
        store.write([batch("r", entries[0].cursor, entries[1:])]) if drained else store.save_event(event("r", 2))
        for each in (store, JSONLCheckpointer(tmp_path)):
            assert numbers(each, "r") == ([1, 2] if drained else [1, 101, 2])
        assert read_by(theirs) == [1, 101, 2]


def test_who_is_always_faster_is_not_waited_for_without_end(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, overtake: Overtake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_batch, "_ATTEMPTS", 3)
    with JSONLCheckpointer(tmp_path) as store:
        overtake(theirs, "r", itertools.repeat(101))
        with pytest.raises(StoreUnavailable, match="all the while"):
            store.save_event(event("r", 1))
        assert numbers(store, "r") == [101, 101, 101]


_THEIR_PROCESS = """
import sys, time
from purpose_agent.runtime.checkpoint import JSONLCheckpointer
from purpose_agent.runtime.events import EventKind, PAEvent
store = JSONLCheckpointer(sys.argv[1])
for n in range(int(sys.argv[2])):
    payload = {"number": n, "by": "them", "text": "x" * (n % 20 == 0) * 20_000}
    store.save_event(PAEvent("r", seq=1 + n, kind=EventKind.TOOL_RESULT, payload=payload))
    time.sleep(0.0005)
"""


@pytest.mark.exhaustive
def test_writers_of_both_kinds_and_a_reader_at_once(tmp_path: Path) -> None:
    """Every event once, each writer's in its order; nothing that was read is taken back."""
    count, stop = 300, threading.Event()
    seen: list[str] = []
    store: Store = JSONLCheckpointer(tmp_path)
    reader: Store = JSONLCheckpointer(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", _THEIR_PROCESS, str(tmp_path), str(count)])

    def read() -> None:
        while not stop.is_set():
            found = [item.cursor for item in reader.read("r")]
            assert found[: len(seen)] == seen
            seen[:] = found

    with ThreadPoolExecutor(1) as threads:
        reading, n = threads.submit(read), 0
        try:
            while process.poll() is None:
                n += 1
                store.save_event(event("r", n, by="us"))
        finally:
            stop.set()
        reading.result()
    assert process.returncode == 0
    numbers(store, "r")
    found = store.list_events("r")
    for by, last in (("us", n), ("them", count)):
        assert [one.seq for one in found if one.payload["by"] == by] == list(range(1, last + 1))
    assert len(checkpoint.JSONLCheckpointer(str(tmp_path)).list_events("r")) == len(found)


# -- runs that came by a drain ----------------------------------------------------------------------------------


def test_a_run_of_a_drain_is_left_alone(tmp_path: Path, theirs: checkpoint.JSONLCheckpointer) -> None:
    entries = history("r", START, [event("r", number) for number in range(1, 7)])
    with JSONLCheckpointer(tmp_path) as store:
        store.write([batch("r", START, entries[:3])])
        save(theirs, 101)
        payload = {"number": 103, "$offset": 4, "$chain": 5}
        theirs.save_event(events.PAEvent("r", seq=103, kind=events.EventKind.TOOL_RESULT, payload=payload))
        with log_of(tmp_path).open("ab") as file:
            file.write(b"nonsense\n")
        for each in (store, JSONLCheckpointer(tmp_path)):
            assert numbers(each, "r") == [1, 2, 3]
            assert each.position("r") == Position(entries[2].cursor)
            assert list(each.quarantine()) == []
            assert each.check_integrity() == []
        store.write([batch("r", entries[2].cursor, entries[3:5])])
        save(theirs, 102)
        store.write([batch("r", entries[4].cursor, entries[5:])])
        info = store.run_info("r")
        assert info is not None
        assert info.last_offset == 6
        for each in (store, JSONLCheckpointer(tmp_path)):
            assert numbers(each, "r") == [1, 2, 3, 4, 5, 6]
            assert [item.offset for item in each.read("r", reverse=True)] == [6, 5, 4, 3, 2, 1]
        assert read_by(theirs) == [1, 2, 3, 101, 103, 4, 5, 102, 6]


def test_a_drains_batch_is_not_overtaken(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, overtake: Overtake
) -> None:
    entries = history("r", START, [event("r", number) for number in range(1, 5)])
    with JSONLCheckpointer(tmp_path) as store:
        store.write([batch("r", START, entries[:2])])
        overtake(theirs, "r", itertools.repeat(101))
        for entry in entries[2:]:
            store.write([batch("r", entries[entry.offset - 2].cursor, [entry])])
        assert numbers(store, "r") == [1, 2, 3, 4]
        assert read_by(theirs) == [1, 2, 101, 3, 101, 4]


@pytest.mark.parametrize("to", [0, 1, 4])
def test_their_lines_stay_when_a_branch_is_cut_off(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, to: int
) -> None:
    entries = history("r", START, [event("r", number) for number in range(1, 7)])
    with JSONLCheckpointer(tmp_path) as store:
        store.write([batch("r", START, entries[:3])])
        save(theirs, 101)
        store.write([batch("r", entries[2].cursor, entries[3:])])
        save(theirs, 102)
        header = operations_of(store).header("r")
        assert header is not None
        cursor = entries[to - 1].cursor if to else START
        operations_of(store).cut_back(header, Position(cursor), entries[5].cursor)
        for each in (store, JSONLCheckpointer(tmp_path)):
            assert numbers(each, "r") == list(range(1, to + 1))
        assert [number for number in read_by(theirs) if number > 100] == [101, 102]


def test_a_state_that_they_put_in_place_of_a_drains_is_not_read_here(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer
) -> None:
    entries = history("r", START, [event("r", number) for number in range(1, 4)])
    ours = ArchiveSnapshot(None, 2, 7, "ours", '{"run_id":"r","data":{"by":"us"}}')
    of_lane = ArchiveSnapshot("a", 2, 1, "lane", '{"run_id":"r","data":{"by":"a"}}')
    with JSONLCheckpointer(tmp_path) as store:
        store.write([batch("r", START, entries, ours, of_lane)])
        before = store.position("r")
        theirs.save_snapshot("r", ForeignState("r", data={"by": "them"}))
        for each in (store, JSONLCheckpointer(tmp_path)):
            snapshot = each.load_snapshot("r")
            assert snapshot is not None
            assert (snapshot.state.data, snapshot.offset, snapshot.revision) == ({"by": "us"}, 2, 7)
            assert each.position("r") == before
            assert list(each.read_back_snapshots("r")) == [ours, of_lane]
            assert [kept.revision for kept in each.snapshot_history("r")] == [7]
        assert theirs.load_latest("r").data == {"by": "them"}
        later = ArchiveSnapshot(None, 3, 8, "later", '{"run_id":"r","data":{"by":"us again"}}')
        store.write([batch("r", entries[2].cursor, [], later)])
        assert theirs.load_latest("r").data == {"by": "us again"}
        assert [kept.revision for kept in store.snapshot_history("r")] == [7, 8]


async def test_an_async_store_sees_their_lines_as_a_sync_one_does(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer
) -> None:
    async with runstream.connect_async(f"jsonl:{tmp_path}") as store:
        await store.save_event(event("r", 1))
        save(theirs, 2)
        await store.save_event(event("r", 3))
        assert [item.event.payload["number"] async for item in store.read("r")] == [1, 2, 3]


# -- their states ------------------------------------------------------------------------------------------------


def write_late(path: Path, content: bytes, pauses: int) -> threading.Thread:
    """Write as their writer does when it is slow: empty the file, and fill it in parts."""
    path.write_bytes(b"")

    def work() -> None:
        for begin in range(0, len(content), -(-len(content) // pauses)):
            time.sleep(0.01)
            with path.open("ab") as file:
                file.write(content[begin : begin + -(-len(content) // pauses)])

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("method", ["load_latest", "recover", "header"])
def test_a_state_is_read_when_it_is_written(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer, method: str
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        theirs.save_snapshot("q", ForeignState("q", current_step=2, data={"a": {"b": [1]}, "text": "x" * 500}))
        path = tmp_path / "q" / "snapshot.json"
        writing = write_late(path, path.read_bytes(), 4)
        found: Any = getattr(operations_of(store) if method == "header" else store, method)("q")
        writing.join()
        if method == "load_latest":
            assert found.current_step == 2
        elif method == "recover":
            assert found.state.current_step == 2
        else:
            assert found.status == "pending"


def test_a_state_whose_writer_was_killed_is_reported_and_replaced(
    tmp_path: Path, theirs: checkpoint.JSONLCheckpointer
) -> None:
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 1))
        theirs.save_snapshot("r", ForeignState("r"))
        path = tmp_path / "r" / "snapshot.json"
        path.write_bytes(path.read_bytes()[:50])
        os.utime(path, (1, 1))
        with pytest.raises(CorruptRecordError):
            store.load_latest("r")
        store.save_snapshot("r", state("r", 3))
        assert theirs.load_latest("r").current_step == 3
