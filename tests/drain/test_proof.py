"""P9, proof before trim: sinks that lie, and workers that come back when the world has gone on.

What the worker believes of an archive never counts. A lie is told by a real archive: its rows or files are changed
by another connection or process between its ``write`` and its ``read_back``. A worker that is late is a real
process, stopped between proof and settling, while a real failover takes place.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from runstream import (
    DrainWorker,
    HistoryDiverged,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from runstream.model.archive_records import ArchiveEntry, Position, RunBatch
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker import drain
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend
from tests.support.drain_tools import ask, first_hot, parked
from tests.support.mortal import Killed
from tests.support.operations import operations_of, session_of
from tests.support.samples import make_event, make_events, make_state

Hot = RedisCheckpointer[Any, Any]


@pytest.fixture
def hot(make_backend: Callable[[str], Backend]) -> Hot:
    """A store over fakeredis."""
    store = make_backend("fake").open()
    assert isinstance(store, RedisCheckpointer)
    return store


@pytest.fixture(params=["sqlite", "jsonl"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An archive of either kind."""
    with open_archive(request.param, tmp_path) as opened:
        yield opened


def open_archive(kind: str, directory: Path) -> Archive:
    return SQLiteCheckpointer(directory / "a.db") if kind == "sqlite" else JSONLCheckpointer(directory / "a")


def reopened(archive: Archive) -> Archive:
    """The same archive as another process finds it."""
    if isinstance(archive, SQLiteCheckpointer):
        return SQLiteCheckpointer(archive.location.removeprefix("sqlite:"))
    return JSONLCheckpointer(operations_of(archive)._logs.path)


def sink_of(archive: Archive, **instead: Callable[..., Any]) -> Sink:
    """The archive as a sink, with some of its methods replaced."""

    class Lying:
        def __getattr__(self, name: str) -> Any:
            return instead[name] if name in instead else getattr(archive, name)

    return cast("Sink", Lying())


def changed_after_write(archive: Archive, change: Callable[[], object]) -> Sink:
    """The archive as a sink that is changed behind its back as soon as it has written."""

    def write(batches: Sequence[RunBatch]) -> None:
        archive.write(batches)
        change()

    return sink_of(archive, write=write)


# -- what is in Redis ----------------------------------------------------------------------------------


def fill(hot: Hot) -> dict[str, list[PAEvent]]:
    """A run ``r`` with a key, a damaged record and snapshots, and another run. All of both may be trimmed."""
    events = [make_event("r", seq, payload={"raw": b"\x00\xff", "n": seq}) for seq in range(1, 6)]
    hot.save_events(events[:3])
    hot.append("r", events[3:], keys=[None, "the key"])
    encode = session_of(hot).codec.encode_event

    def encode_damaged(*args: Any) -> Any:
        encoded = encode(*args)
        return encoded._replace(record=encoded.record[:-1] + bytes((encoded.record[-1] ^ 1,)))

    session_of(hot).codec.encode_event = encode_damaged  # a writer whose memory is bad
    hot.save_event(make_event("r", 6))
    del session_of(hot).codec.encode_event  # the instance's own, set above
    hot.save_snapshot("r", make_state("r", purpose="p"))
    hot.save_snapshot("r", make_state("r", purpose="p"), lane_id="main")
    others = [make_event("other", seq) for seq in (1, 2, 3)]
    hot.save_events(others)
    return {"r": events, "other": others}


def archived(hot: Hot, run_id: str) -> int:
    info = hot.run_info(run_id)
    assert info is not None
    return info.archived_offset


def let_parked_come_due(hot: Hot) -> None:
    """Let parked runs be tried again now."""
    for run_id in parked(hot):
        namespace_of(hot).release([drain.DueRun(run_id, 0)])


# -- lies: one row, line or file of one run -------------------------------------------------------------


def in_sqlite(archive: Archive, script: str) -> None:
    with closing(sqlite3.connect(archive.location.removeprefix("sqlite:"))) as connection:
        connection.executescript(script)


def in_another_process(code: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-c", f"import os, sys; {code}", *map(str, arguments)], check=True)


_OF_R = "WHERE run_id = 'r'"
_COPY = "run_id, seq, ts, kind, lane_id, data, offset, chain"

_SQLITE_LIES = {
    "loses a row": f"DELETE FROM events {_OF_R} AND offset = 3",
    "loses the first row": f"DELETE FROM events {_OF_R} AND offset = 1",
    "loses the last row": f"DELETE FROM quarantine {_OF_R}; DELETE FROM events {_OF_R} AND offset >= 5",
    "loses all rows": f"DELETE FROM events {_OF_R}",
    "loses a record that was kept aside": f"DELETE FROM quarantine {_OF_R}",
    "changes a record that was kept aside": f"UPDATE quarantine SET raw = substr(raw, 1, 20) {_OF_R}",
    "changes data": f"""UPDATE events SET data = replace(data, '"n":3', '"n":4') {_OF_R}""",
    "changes the type of a value": f"""UPDATE events SET data = replace(data, '"$bytes"', '"bytes"') {_OF_R}""",
    "makes data unreadable": f"UPDATE events SET data = substr(data, 2) {_OF_R} AND offset = 3",
    "changes a key": f"UPDATE events SET key = 'another' {_OF_R} AND key IS NOT NULL",
    "loses a key": f"UPDATE events SET key = NULL {_OF_R}",
    "makes up a key": f"UPDATE events SET key = 'k' {_OF_R} AND offset = 2",
    "changes a chain": f"UPDATE events SET chain = chain + 1 {_OF_R} AND offset = 2",
    "swaps two rows": f"UPDATE events SET offset = -offset {_OF_R} AND offset < 3;"
    "UPDATE events SET offset = 3 + offset WHERE offset < 0",
    "doubles a row": "DROP INDEX events_by_offset;"
    f"INSERT INTO events ({_COPY}) SELECT {_COPY} FROM events {_OF_R} AND offset = 3",
    "doubles the last row": "DROP INDEX events_by_offset;"
    f"INSERT INTO events ({_COPY}) SELECT run_id, 1, 1, 'x', 'main', '', 6, 7 FROM events {_OF_R} AND offset = 5",
    "loses a snapshot": f"DELETE FROM snapshots {_OF_R}",
    "loses a lane's snapshot": f"DELETE FROM lane_snapshots {_OF_R}",
    "changes a snapshot": "UPDATE snapshots SET state = replace(state, '\"p\"', '\"q\"')",
    "changes a lane's snapshot": "UPDATE lane_snapshots SET state = replace(state, '\"p\"', '\"q\"')",
    "makes a snapshot cover more": "UPDATE snapshots SET offset = offset + 1",
    "makes a snapshot older": "UPDATE snapshots SET revision = revision - 1",
    "changes a snapshot's token": "UPDATE snapshots SET token = 'another'",
}

# what Python code in another process does to the run's directory; the log's first line is its header
_LINES = "path = sys.argv[1] + '/r/events.jsonl'; lines = open(path, 'rb').readlines(); "
_REWRITE = "; open(path, 'wb').writelines(lines)"
_STATE = "path = sys.argv[1] + '/r/snapshot.json'; "
_HISTORY = "path = sys.argv[1] + '/r/snapshots.jsonl'; "  # from where the state's file is made anew


def _changed(number: int, old: str, new: str) -> str:
    return f"{_LINES} lines[{number}] = lines[{number}].replace({old.encode()!r}, {new.encode()!r}){_REWRITE}"


_JSONL_LIES = {
    "loses a line": f"{_LINES} del lines[3]{_REWRITE}",
    "loses the first line": f"{_LINES} del lines[1]{_REWRITE}",
    "loses the last line": f"{_LINES} os.truncate(path, os.path.getsize(path) - len(lines[-1]))",
    "loses the last byte": f"{_LINES} os.truncate(path, os.path.getsize(path) - 1)",
    "loses half of the last line": f"{_LINES} os.truncate(path, os.path.getsize(path) - len(lines[-1]) // 2)",
    "is cut in the middle": f"{_LINES} os.truncate(path, os.path.getsize(path) // 2)",
    "is cut to nothing": f"{_LINES} os.truncate(path, 0)",
    "loses the file": f"{_LINES} os.unlink(path)",
    "reads as zeros": f"{_LINES} lines[3] = bytes(len(lines[3])){_REWRITE}",
    "changes a record that was kept aside": _changed(6, 'raw":"', 'raw":"AAAA'),
    "changes data": _changed(3, '"n":3', '"n":4'),
    "makes data unreadable": _changed(3, '"n":', '"n"'),
    "changes a key": _changed(5, "the key", "another"),
    "changes a chain": _changed(2, 'chain":', 'chain":1'),
    "swaps two lines": f"{_LINES} lines[2], lines[3] = lines[3], lines[2]{_REWRITE}",
    "doubles a line": f"{_LINES} lines.insert(3, lines[3]){_REWRITE}",
    "doubles the last line": f"{_LINES} lines.append(lines[-1]){_REWRITE}",
    "loses a snapshot": f"{_STATE} os.unlink(path); {_HISTORY} os.unlink(path)",
    "changes a snapshot": f"{_STATE} text = open(path).read().replace('p\"', 'q\"'); open(path, 'w').write(text)",
    "cuts a snapshot": f"{_STATE} os.truncate(path, os.path.getsize(path) // 2); {_HISTORY} os.truncate(path, 0)",
}

LIES = [("sqlite", lie) for lie in _SQLITE_LIES] + [("jsonl", lie) for lie in _JSONL_LIES]


def tell(archive: Archive, lie: str) -> None:
    """Make the archive hold something else than what was written."""
    if isinstance(archive, SQLiteCheckpointer):
        in_sqlite(archive, _SQLITE_LIES[lie])
    else:
        in_another_process(_JSONL_LIES[lie], operations_of(archive)._logs.path)


@pytest.mark.one_in(18, exhaustively=4)
@pytest.mark.parametrize(("kind", "lie"), LIES)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_lie_is_caught_and_nothing_is_trimmed(hot: Hot, tmp_path: Path, kind: str, lie: str, place: str) -> None:
    """Whatever write() said, what the archive holds is compared; the run is parked, others go on."""
    fill(hot)
    honest_kind = "jsonl" if kind == "sqlite" else "sqlite"
    with open_archive(kind, tmp_path) as liar, open_archive(honest_kind, tmp_path) as honest:
        lying = changed_after_write(liar, lambda: tell(liar, lie))
        sinks = [lying, honest] if place == "first" else [honest, lying]
        report = DrainWorker(hot, sinks, trim="archived").drain_once()
        assert (report.parked, report.runs) == (1, 1)
        assert parked(hot)["r"].startswith(f"{liar.location} ")
        assert (first_hot(hot, "r"), archived(hot, "r")) == (1, 0)
        assert (first_hot(hot, "other"), archived(hot, "other")) == (4, 3)


@pytest.mark.one_in(24)
@pytest.mark.parametrize(("kind", "lie"), LIES)
def test_what_another_worker_wrote_is_proven_too(hot: Hot, tmp_path: Path, kind: str, lie: str) -> None:
    """It died before its proof, and the archive was changed then: from the archived mark on, all is compared."""
    acknowledged = fill(hot)

    def die() -> None:
        raise Killed

    with open_archive(kind, tmp_path) as archive:
        with pytest.raises(Killed):
            DrainWorker(hot, [changed_after_write(archive, die)], trim="archived").drain_once()
        tell(archive, lie)
        with reopened(archive) as found:
            worker = DrainWorker(hot, [found], trim="archived")
            report = worker.drain_once()
            assert report.runs + report.parked == 2
            if "r" in parked(hot):
                assert (first_hot(hot, "r"), archived(hot, "r")) == (1, 0)
            else:  # what was lost at the end, or a snapshot, is just not there yet: it was written again
                check_holds_what_left(hot, found)
                check_archives([found], {"r": acknowledged["r"]}, kept_aside=1)
        assert (first_hot(hot, "other"), archived(hot, "other")) == (4, 3)


def check_holds_what_left(hot: Hot, archive: Archive) -> None:
    """All that was settled as archived is in the archive, as it was in Redis, for whoever opens it."""
    with reopened(archive) as fresh:
        for run_id in hot.list_runs():
            last = archived(hot, run_id)
            entries = list(fresh.read_back(run_id, 1, last))
            assert [entry.offset for entry in entries] == list(range(1, last + 1))
            for lane_id in (None, "main"):
                assert fresh.load_snapshot(run_id, lane_id=lane_id) == hot.load_snapshot(run_id, lane_id=lane_id)


# -- lies: a whole file, a transaction, a position --------------------------------------------------------


_FILE_LIES = {
    "its file is cut to half": "import sqlite3; db = sqlite3.connect(sys.argv[1]);"
    " db.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall(); db.close();"
    " os.truncate(sys.argv[1], os.path.getsize(sys.argv[1]) // 8192 * 4096)",
    "its log is cut to half": "os.truncate(sys.argv[1] + '-wal', os.path.getsize(sys.argv[1] + '-wal') // 2)",
    "its log is cut to nothing": "os.truncate(sys.argv[1] + '-wal', 0)",
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("lie", _FILE_LIES)
def test_a_sqlite_file_that_is_cut_after_the_write_is_caught(hot: Hot, tmp_path: Path, lie: str) -> None:
    """Cut by another process between write and read-back: parked or StoreUnavailable, and nothing is trimmed."""
    events = [make_event("r", seq, payload={"text": "x" * 1000}) for seq in range(1, 301)]
    hot.save_events(events)
    with SQLiteCheckpointer(tmp_path / "a.db") as archive:
        lying = changed_after_write(archive, lambda: in_another_process(_FILE_LIES[lie], tmp_path / "a.db"))
        with contextlib.suppress(StoreUnavailable):
            assert DrainWorker(hot, [lying], trim="archived").drain_once().parked == 1
        assert (first_hot(hot, "r"), archived(hot, "r")) == (1, 0)


def test_a_sink_that_returns_before_its_commit_is_caught(hot: Hot, tmp_path: Path) -> None:
    """What is only in its transaction, a fresh reader does not see."""
    fill(hot)
    with SQLiteCheckpointer(tmp_path / "a.db") as archive, reopened(archive) as reader, ExitStack() as later:

        def write(batches: Sequence[RunBatch]) -> None:
            connection = later.enter_context(operations_of(archive)._file.use())
            connection.execute("BEGIN IMMEDIATE")
            later.callback(connection.execute, "ROLLBACK")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(operations_of(archive)._file, "write", lambda: contextlib.nullcontext(connection))
                archive.write(batches)
            assert list(archive.read_back("r", 1, 6)), "it is there for the writer itself"

        back = {name: getattr(reader, name) for name in ("position", "read_back", "read_back_snapshots")}
        assert DrainWorker(hot, [sink_of(archive, write=write, **back)], trim="archived").drain_once().parked == 2
        assert (first_hot(hot, "r"), first_hot(hot, "other")) == (1, 1)
    with reopened(archive) as fresh:
        assert fresh.position("r") is None


def test_a_lie_is_caught_before_what_comes_after_it(hot: Hot, archive: Archive) -> None:
    """A sink that fails behind its lie has lied: it is the run that is parked, and no sink that is tried again."""
    fill(hot)

    def read_back(run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        yield next(iter(archive.read_back(run_id, first, last)))._replace(data="{}")
        raise StoreUnavailable("the page behind it is damaged")

    assert DrainWorker(hot, [sink_of(archive, read_back=read_back)], trim="archived").drain_once().parked == 2
    assert (first_hot(hot, "r"), first_hot(hot, "other")) == (1, 1)


def test_a_sink_that_writes_nothing_is_caught(hot: Hot, archive: Archive) -> None:
    """Not even the runs are there."""
    fill(hot)
    lying = sink_of(archive, write=lambda batches: None)
    assert DrainWorker(hot, [lying], trim="archived").drain_once().parked == 2
    assert (first_hot(hot, "r"), first_hot(hot, "other")) == (1, 1)


def test_a_sink_that_writes_another_run_is_caught(hot: Hot, archive: Archive) -> None:
    """It has the events, under another name."""
    fill(hot)

    def write(batches: Sequence[RunBatch]) -> None:
        archive.write([replace(batch, header=replace(batch.header, run_id="x")) for batch in batches[:1]])

    assert DrainWorker(hot, [sink_of(archive, write=write)], trim="archived").drain_once().parked == 2
    assert (first_hot(hot, "r"), first_hot(hot, "other")) == (1, 1)


def truly(hot: Hot, run_id: str) -> Position:
    """The position of an archive that has all that is in Redis of a run."""
    (run,) = namespace_of(hot).load_runs([run_id])
    assert run is not None
    return Position(run.head.last, run.head.tokens)


_POSITIONS: dict[str, Callable[[Position], Position | None]] = {
    "it has all": lambda all_of_it: all_of_it,
    "it has half of it": lambda all_of_it: Position(Cursor(3, all_of_it.cursor.chain), all_of_it.snapshots),
    "it has nothing": lambda _: None,
    "it is ahead": lambda all_of_it: Position(Cursor(9, 1), all_of_it.snapshots),
    "it has another history": lambda all_of_it: Position(Cursor(6, 1), all_of_it.snapshots),
    "it has no snapshots": lambda all_of_it: Position(all_of_it.cursor),
}


@pytest.mark.one_in(11)
@pytest.mark.parametrize("lie", _POSITIONS)
@pytest.mark.parametrize("holds", ["nothing", "a part", "all"])
def test_a_sink_that_lies_about_its_position_loses_nothing(
    hot: Hot, archive: Archive, lie: str, holds: str
) -> None:
    """Whatever it says, what is settled is there, and a worker that is told the truth finishes the rest."""
    acknowledged = fill(hot)
    worker = DrainWorker(hot, [archive], trim="archived")
    if holds == "a part":
        hot.delete_run("r")
        acknowledged["r"] = [make_event("r", seq) for seq in (1, 2, 3)]
        hot.save_events(acknowledged["r"])
    if holds != "nothing":
        worker.drain_once()
    if holds != "all":
        acknowledged["r"] += (more := [make_event("r", seq) for seq in (7, 8)])
        hot.save_events(more)
        hot.save_snapshot("r", make_state("r", purpose="s"))
    before = archived(hot, "r")

    def position(run_id: str) -> Position | None:
        return _POSITIONS[lie](truly(hot, run_id)) if run_id == "r" else archive.position(run_id)

    DrainWorker(hot, [sink_of(archive, position=position)], trim="archived").drain_once()
    if "r" in parked(hot):
        assert archived(hot, "r") == before
        let_parked_come_due(hot)
        worker.drain_once()
    check_holds_what_left(hot, archive)
    assert parked(hot) == {}
    check_archives([archive], {"r": acknowledged["r"]}, kept_aside=int(holds != "a part"))


def test_when_the_truth_comes_back_the_run_goes_on(hot: Hot, tmp_path: Path) -> None:
    """An archive that was cut behind the worker's back is made whole from Redis, which has kept everything."""
    acknowledged = fill(hot)
    with JSONLCheckpointer(tmp_path / "a") as archive, SQLiteCheckpointer(tmp_path / "a.db") as other:
        lying = changed_after_write(archive, lambda: tell(archive, "is cut in the middle"))
        assert DrainWorker(hot, [lying, other], trim="archived").drain_once().parked == 1
        let_parked_come_due(hot)
        DrainWorker(hot, [archive, other], trim="archived").drain_once()
        assert parked(hot) == {}
        assert first_hot(hot, "r") == 7
        check_archives([archive, other], {"r": acknowledged["r"]}, kept_aside=1)
        check_archives([archive, other], {"other": acknowledged["other"]})


@pytest.mark.one_in(3)
@pytest.mark.parametrize("further", [0, 1, 5])
def test_a_batch_of_another_history_is_refused_however_far_the_archive_is(
    hot: Hot, archive: Archive, further: int
) -> None:
    """A paused worker had it from a server that is gone: neither its events nor its snapshot are taken."""
    fill(hot)
    late: list[RunBatch] = []
    sink = sink_of(archive, write=late.extend)
    DrainWorker(hot, [sink], trim="never").drain_once()
    (batch,) = (batch for batch in late if batch.header.run_id == "r")
    hot.delete_run("r")
    hot.save_events(make_events("r", len(batch.entries) + further))
    hot.save_snapshot("r", make_state("r", purpose="new"))
    DrainWorker(hot, [archive]).drain_once()
    for part in (batch, replace(batch, entries=batch.entries[:3]), replace(batch, entries=())):
        with pytest.raises(HistoryDiverged):
            archive.write([part])
    check_holds_what_left(hot, archive)


def test_a_lie_in_a_later_batch_of_a_run_parks_it_too(hot: Hot, archive: Archive) -> None:
    """What this worker itself has settled of the run is not taken for another worker's."""
    hot.save_events(make_events("r", 25))

    def read_back(*span: Any) -> Iterator[Any]:
        return (entry for entry in archive.read_back(*span) if entry.offset != 15)

    report = DrainWorker(hot, [sink_of(archive, read_back=read_back)], batch=10, trim="archived").drain_once()
    assert (report.events, report.parked) == (10, 1)
    assert "does not hold event 15" in parked(hot)["r"]
    assert first_hot(hot, "r") == 11


def test_a_gap_in_a_later_batch_of_a_run_parks_it_too(hot: Hot, archive: Archive) -> None:
    hot.save_events(make_events("r", 25))
    events = namespace_of(hot).keys.run("r").events

    def write(batches: Sequence[RunBatch]) -> None:
        archive.write(batches)
        ask(hot, b"XDEL", events, ask(hot, b"XRANGE", events, b"11", b"11")[0][0])

    report = DrainWorker(hot, [sink_of(archive, write=write)], batch=10, trim="never").drain_once()
    assert (report.events, report.parked) == (10, 1)
    assert "event 11" in parked(hot)["r"]


class Forgetful(sqlite3.Connection):
    """A connection that, while it is told to, takes a COMMIT for done."""

    forgets = False

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        return super().execute("SELECT 1" if self.forgets and sql == "COMMIT" else sql, *args)


def test_a_commit_that_was_lost_is_noticed(hot: Hot, tmp_path: Path, monkeypatch: Any) -> None:
    """What is read back comes over the connection that wrote it, which sees what it has not committed."""
    acknowledged = fill(hot)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Forgetful))
    with SQLiteCheckpointer(tmp_path / "a.db") as archive:

        def write(batches: Sequence[RunBatch]) -> None:
            monkeypatch.setattr(Forgetful, "forgets", True)
            try:
                archive.write(batches)
            finally:
                monkeypatch.setattr(Forgetful, "forgets", False)

        with pytest.raises(StoreUnavailable, match="did not commit"):
            DrainWorker(hot, [sink_of(archive, write=write)], trim="archived").drain_once()
        assert first_hot(hot, "r") == 1
        DrainWorker(hot, [archive], trim="archived").drain_once()
        assert first_hot(hot, "r") == 7
        check_archives([archive], {"other": acknowledged["other"]})


def test_a_worker_that_is_late_does_not_trim_what_was_settled_of_another_history(hot: Hot) -> None:
    """It proved another one up to an offset that others have passed since, as after a run was resolved."""
    hot.save_events(make_events("r", 5))
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    namespace_of(hot).settle([drain.Proven(run.header, run.head.last, {}, "never", None)], {})
    former = Cursor(3, 12345)
    late = drain.Proven(run.header, former, {}, "archived", None)
    assert namespace_of(hot).settle([late], {}) == [drain.Settled("gone")]
    assert first_hot(hot, "r") == 1
    assert archived(hot, "r") == 5
