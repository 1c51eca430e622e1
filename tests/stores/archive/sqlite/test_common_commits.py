"""Appends of threads that wait for one another come into the file together, each with its own outcome."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from runstream import ConcurrencyConflict, StoreUnavailable
from tests.stores.archive.sqlite.database import Archive, Open, offsets
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_state


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The file while another program writes to it: who appends waits for that."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def waiting(archive: Archive) -> int:
    return len(operations_of(archive)._commits._waiting)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


def together(archive: Archive, path: Path, appends: list[Callable[[], Any]]) -> list[Future[Any]]:
    """Make appends at once: the first leads, and all others wait for it."""
    with ThreadPoolExecutor(len(appends)) as threads, held(path):
        made = [threads.submit(appends[0])]
        until(lambda: operations_of(archive)._commits._is_led and not waiting(archive))
        for number, append in enumerate(appends[1:], 1):
            made.append(threads.submit(append))
            until(lambda number=number: waiting(archive) == number)  # type: ignore[misc]
    return made


def appending(archive: Archive, run_id: str, seq: int = 1, **options: Any) -> Callable[[], Any]:
    return lambda: archive.append(run_id, [make_event(run_id, seq)], **options)


def test_those_who_wait_are_committed_in_one_transaction(archive: Archive, path: Path) -> None:
    statements: list[str] = []
    with operations_of(archive)._file.use() as connection:
        connection.set_trace_callback(statements.append)
    state = make_state("r3", data={"n": 1})
    appends = [appending(archive, f"r{number}") for number in range(8)]
    appends[3] = appending(archive, "r3", snapshot=state, tags={"t": "x"}, keys=["k"])
    made = together(archive, path, appends)
    assert [one.result().last_offset for one in made] == [1] * 8
    assert statements.count("COMMIT") == 2
    assert [offsets(archive, f"r{number}") for number in range(8)] == [[1]] * 8
    assert archive.load_snapshot("r3").state.data == {"n": 1}  # type: ignore[union-attr]
    assert [info.run_id for info in archive.runs(tags={"t": "x"})] == ["r3"]
    assert archive.check_integrity() == []


def test_what_comes_to_one_run_is_in_the_order_in_which_it_came(archive: Archive, path: Path) -> None:
    appends = [appending(archive, "r", seq, keys=["same" if seq in (3, 5) else None]) for seq in range(1, 7)]
    made = together(archive, path, appends)
    assert [one.result().last_offset for one in made] == [1, 2, 3, 4, 3, 5]
    assert [event.seq for event in archive.list_events("r")] == [1, 2, 3, 4, 6]
    assert archive.check_integrity() == []


def test_one_that_is_refused_is_refused_alone(archive: Archive, path: Path) -> None:
    archive.append("r", [make_event("r", 1)])
    refused = appending(archive, "r", 2, expected_offset=7, snapshot=make_state("r"))
    first, second, third = together(archive, path, [appending(archive, "a"), refused, appending(archive, "b")])
    assert first.result().last_offset == third.result().last_offset == 1
    with pytest.raises(ConcurrencyConflict):
        second.result()
    assert (offsets(archive, "r"), archive.load_snapshot("r")) == ([1], None)


def test_a_file_that_stays_locked_is_told_to_all_who_wait_and_nothing_is_written(
    open_archive: Open, path: Path
) -> None:
    archive = open_archive(busy_timeout_seconds=0.5)
    with held(path), ThreadPoolExecutor(4) as threads:
        made = [threads.submit(appending(archive, f"r{number}")) for number in range(4)]
        for one in made:
            with pytest.raises(StoreUnavailable, match="is locked"):
                one.result()
    assert archive.list_runs() == []
    assert archive.append("r0", [make_event("r0", 1)]).last_offset == 1


def test_an_interrupt_of_the_one_who_commits_leaves_nobody_waiting(
    archive: Archive, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = operations_of(archive)
    begin, begun = operations._batch, []

    def interrupted(connection: sqlite3.Connection) -> Any:
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return begin(connection)

    monkeypatch.setattr(operations, "_batch", interrupted)
    first, second, third = together(archive, path, [appending(archive, name) for name in "abc"])
    assert first.result().last_offset == 1
    with pytest.raises(KeyboardInterrupt):
        second.result()
    with pytest.raises(StoreUnavailable, match="send the same again"):
        third.result()
    assert archive.list_runs() == ["a"]
    assert archive.append("c", [make_event("c", 1)]).last_offset == 1
