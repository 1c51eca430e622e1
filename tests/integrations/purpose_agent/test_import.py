"""``runstream import``: purpose-agent's own files, and archives, each event once and as it was."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runstream import (
    ConfigurationError,
    CorruptRecordError,
    JSONLCheckpointer,
    PAEvent,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
)
from runstream.integrations.purpose_agent import importer
from runstream.integrations.purpose_agent.directory import open_source
from runstream.integrations.purpose_agent.importer import Imported, Importer
from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.results import Cursor
from tests.support.commands import Said, run
from tests.support.samples import RICH_VALUES, make_event, make_events, make_state, same

theirs = pytest.importorskip("purpose_agent.runtime.checkpoint")
their_events = pytest.importorskip("purpose_agent.runtime.events")
their_state = pytest.importorskip("purpose_agent.runtime.state")

KIND = their_events.EventKind


class Theirs(NamedTuple):
    """A source that purpose-agent writes, and its own writer and reader of it."""

    path: Path
    checkpointer: Any

    @property
    def is_database(self) -> bool:
        return self.path.is_file()

    def log(self, run_id: str) -> Path:
        return self.path / run_id / "events.jsonl"

    def write(self, run_id: str, text: str) -> None:
        """What only a hand, or another version, writes: a line or a row with this text."""
        if not self.is_database:
            with self.log(run_id).open("a") as file:
                file.write(f"{text}\n")
            return
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(
                "INSERT INTO events (run_id, seq, ts, kind, data) VALUES (?, 1, 1.0, 'x', ?)", (run_id, text)
            )


@pytest.fixture(params=["directory", "database"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Theirs:
    """A source of either kind. Their names tell nothing."""
    path = tmp_path / "checkpoints"
    if request.param == "directory":
        return Theirs(path, theirs.JSONLCheckpointer(str(path)))
    return Theirs(path, theirs.SQLiteCheckpointer(str(path)))


def their_event(run_id: str, seq: int, kind: Any = KIND.TOOL_RESULT, lane_id: str = "main", **payload: Any) -> Any:
    return their_events.create_event(run_id=run_id, kind=kind, seq=seq, lane_id=lane_id, **payload)


def fill(source: Theirs, run_id: str, count: int, *, first: int = 1) -> None:
    """Events that purpose-agent's own reader of either kind gives in the order of writing."""
    if count < 100:
        for seq in range(first, first + count):
            source.checkpointer.save_event(their_event(run_id, seq, n=seq))
        return
    events = [their_event(run_id, seq, n=seq) for seq in range(first, first + count)]
    if not source.is_database:
        for event in events:
            source.checkpointer.save_event(event)
        return
    with closing(sqlite3.connect(source.path)) as connection:  # as it writes them, in one transaction
        connection.executemany(
            "INSERT INTO events (run_id, seq, ts, kind, lane_id, data) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (e.run_id, e.seq, e.ts, e.kind.value, e.lane_id, json.dumps(e.to_dict(), default=str))
                for e in events
            ],
        )
        connection.commit()


def import_(path: Path, url: str, *arguments: str) -> Said:
    return run("import", str(path), "--url", url, *arguments)


def result_of(said: Said, run_id: str = "r") -> dict[str, Any]:
    assert said.out, said.err
    (found,) = [each for each in said.document["runs"] if each["run_id"] == run_id]
    return dict(found)


def numbers(url: str, run_id: str = "r") -> list[int]:
    with connect(url) as store:
        return [item.event.payload["n"] for item in store.read(run_id)]


def footprint(path: Path) -> dict[str, bytes]:
    """All that is at a path, with its content, and what lies beside it."""
    places = sorted(path.rglob("*")) if path.is_dir() else sorted(path.parent.glob(f"{path.name}*"))
    return {str(each): each.read_bytes() for each in places if each.is_file()}


# -- what comes in -------------------------------------------------------------------------------------


def test_what_purpose_agent_wrote_is_read_as_it_reads_it_itself(source: Theirs, url: str) -> None:
    for run_id in ("r", "Run Two", "a/b", "a%20b"):
        source.checkpointer.save_event(their_event(run_id, 1, KIND.RUN_STARTED))
        for seq in range(2, 8):
            source.checkpointer.save_event(
                their_event(run_id, seq, lane_id="xy"[seq % 2], data=b"\xff", text="\ud800é", tag={"$tuple": [1]})
            )
        source.checkpointer.save_event(their_event(run_id, 8, KIND.RUN_FINISHED))
        state = their_state.RunState(run_id=run_id, session_id="s", status=their_state.RunStatus.COMPLETED)
        state.data["values"] = {"a": [1, None, {"$set": [1]}]}
        source.checkpointer.save_snapshot(run_id, state)
    said = import_(source.path, url)
    assert said.code == 0, said.err
    with connect(url) as store:
        assert sorted(store.list_runs()) == ["Run Two", "a%20b", "a/b", "r"]
        for run_id in store.list_runs():
            mine = [event.to_dict() for event in store.list_events(run_id)]
            assert mine == [event.to_dict() for event in source.checkpointer.list_events(run_id)]
            assert mine[1]["payload"]["data"] == r"b'\xff'"
            snapshot, there = store.load_snapshot(run_id), source.checkpointer.load_latest(run_id)
            assert snapshot is not None
            assert (snapshot.offset, snapshot.revision) == (8, 1)
            assert {**snapshot.state.to_dict(), **there.to_dict()} == snapshot.state.to_dict()
            assert store.recover(run_id).events == []
            info = store.run_info(run_id)
            assert info is not None
            assert (info.status, info.session_id, info.last_offset) == ("completed", "s", 8)


def test_what_its_own_reader_gets_wrong_comes_in_as_it_was_written(source: Theirs, url: str) -> None:
    # seq 0, two lanes that count alike, a kind that it does not know, and what it has no field for
    for seq, lane in ((0, "x"), (1, "x"), (0, "y"), (1, "y")):
        source.checkpointer.save_event(their_event("r", seq, lane_id=lane))
    source.write(
        "r", json.dumps({"run_id": "r", "kind": "of.tomorrow", "ts": 5, "visibility": "some", "extra": [1]})
    )
    assert import_(source.path, url).code == 0
    with connect(url, event_type=AsWritten) as store:
        found = [event.fields for event in store.list_events("r")]
    assert [(each["seq"], each["lane_id"]) for each in found[:4]] == [(0, "x"), (1, "x"), (0, "y"), (1, "y")]
    assert (found[4]["kind"], found[4]["visibility"], found[4]["extra"]) == ("of.tomorrow", "some", [1])


class AsWritten(NamedTuple):
    """An event as its fields."""

    fields: dict[str, Any]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> AsWritten:
        return cls(fields)

    def to_dict(self) -> dict[str, Any]:
        return self.fields


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_an_archive_comes_in_with_its_values_keys_and_states(tmp_path: Path, kind: str, url: str) -> None:
    path = tmp_path / "archive"
    make: Any = {"sqlite": SQLiteCheckpointer, "jsonl": JSONLCheckpointer}[kind]
    events = [make_event("R/1", n, payload={name: value}) for n, (name, value) in enumerate(RICH_VALUES.items())]
    state = make_state("R/1", session_id="s", data={"values": RICH_VALUES["sets"]})
    with make(path) as archive:
        archive.append("R/1", events[:5], keys=["k0", None, "k2", None, None])
        archive.append("R/1", events[5:], snapshot=state)
        archive.save_snapshot("R/1", make_state("R/1", current_step=3), lane_id="main")
        archive.save_snapshot("only/" + "x" * 300, make_state("only/" + "x" * 300))
    before = footprint(path)
    said = import_(path, url, "--json")
    assert said.code == 0, said.err
    assert footprint(path) == before, "the source was changed"
    assert (result_of(said, "R/1")["added"], result_of(said, "R/1")["snapshots"]) == (len(events), 2)
    with connect(url) as store:
        for event, found in zip(events, store.list_events("R/1"), strict=True):
            assert same(event.to_dict(), found.to_dict())
        assert store.append("R/1", [make_event("R/1")], keys=["k2"]).first_offset == 3
        for lane_id in (None, "main"):
            snapshot = store.load_snapshot("R/1", lane_id=lane_id)
            assert snapshot is not None
            assert snapshot.offset == len(events)
            assert same(snapshot.state.data, state.data if lane_id is None else {})
        assert store.load_latest("only/" + "x" * 300) is not None
    again = result_of(import_(path, url, "--json"), "R/1")
    assert (again["there"], again["added"], again["snapshots"]) == (len(events), 0, 0)


def test_rows_and_lines_that_purpose_agent_added_to_an_archive_come_after_ours(source: Theirs, url: str) -> None:
    make: Any = SQLiteCheckpointer if source.is_database else JSONLCheckpointer
    with make(source.path) as archive:
        archive.append("r", [make_event("r", 1, payload={"n": 1, "value": (1,)})])
        archive.append("r", make_events("r", 1, first=2))
    fill(source, "r", 2, first=3)
    gc.collect()  # its writer leaves its connections to Python
    before = footprint(source.path)
    assert import_(source.path, url).code == 0
    assert footprint(source.path) == before, "they were adopted, or marked"
    assert numbers(url) == [1, 2, 3, 4]
    with connect(url) as store:
        assert next(iter(store.read("r"))).event.payload["value"] == (1,)


def test_the_last_word_of_a_run_is_its_status(source: Theirs, url: str) -> None:
    source.checkpointer.save_snapshot(
        "r", their_state.RunState(run_id="r", status=their_state.RunStatus.RUNNING, current_step=4)
    )
    source.checkpointer.save_event(their_event("r", 1, n=1))
    source.checkpointer.save_event(their_event("r", 2, KIND.RUN_FINISHED, n=2))
    source.checkpointer.save_event(their_event("r", 3, n=3))
    if source.is_database:
        with closing(sqlite3.connect(source.path, isolation_level=None)) as connection:
            connection.execute("UPDATE snapshots SET updated_at = updated_at - 10")
    else:
        os.utime(source.path / "r" / "snapshot.json", (100, 100))
    assert import_(source.path, url).code == 0
    with connect(url) as store:
        info = store.run_info("r")
        assert info is not None
        assert info.status == "completed"
        recovery = store.recover("r")
        assert recovery.state is not None
        assert recovery.state.current_step == 4
        assert [item.offset for item in recovery.events] == [2, 3]
    assert result_of(import_(source.path, url, "--json"))["snapshots"] == 0


# -- once ----------------------------------------------------------------------------------------------


def test_a_second_import_changes_nothing_and_a_third_adds_what_is_new(source: Theirs, url: str) -> None:
    fill(source, "r", 7)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=1))
    before = footprint(source.path)
    assert result_of(import_(source.path, url, "--json"))["added"] == 7
    with connect(url) as store:
        info, snapshot, cursors = (
            store.run_info("r"),
            store.load_snapshot("r"),
            [e.cursor for e in store.read("r")],
        )
        again = result_of(import_(source.path, url, "--json"))
        assert (again["there"], again["added"], again["snapshots"], again["refused"]) == (7, 0, 0, "")
        assert footprint(source.path) == before, "the source was changed"
        assert (store.run_info("r"), store.load_snapshot("r")) == (info, snapshot)
    fill(source, "r", 3, first=8)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=2))
    third = result_of(import_(source.path, url, "--json"))
    assert (third["there"], third["added"], third["snapshots"]) == (7, 3, 1)
    assert numbers(url) == list(range(1, 11))
    with connect(url) as store:
        assert [item.cursor for item in store.read("r", before=8)] == cursors
        snapshot = store.load_snapshot("r")
        assert snapshot is not None
        assert (snapshot.state.current_step, snapshot.offset) == (2, 10)
    fill(source, "r", 1, first=11)  # and no other state
    fourth = result_of(import_(source.path, url, "--json"))
    assert (fourth["added"], fourth["snapshots"]) == (1, 0)


class Failing:
    """A store that cannot be reached any more after so many appends; of the last, nobody knows whether it was."""

    def __init__(self, store: Any, appends: int, *, applied: bool) -> None:
        self._append = store.append
        self._left = appends
        self._applied = applied
        store.append = self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise StoreUnavailable("gone")
        done = self._append(*arguments, **options)
        if self._left == 0 and self._applied:
            raise StoreUnavailable("the reply was lost")
        return done


@pytest.mark.parametrize("appends", [0, 1, 2, 3])
@pytest.mark.parametrize("applied", [False, True])
def test_an_import_that_is_broken_off_goes_on_where_it_was(
    source: Theirs, url: str, appends: int, applied: bool
) -> None:
    if appends == 0 and applied:
        return
    fill(source, "r", 1250)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=5))
    with connect(url, state_type=dict) as store, open_source(source.path) as opened:
        Failing(store, appends, applied=applied)
        if applied or appends < 3:
            with pytest.raises(StoreUnavailable):
                importing_all(store, opened)
    said = import_(source.path, url, "--json")
    assert said.code == 0, said.err
    assert result_of(said)["there"] == [0, 500, 1000, 1250][appends] or appends == 3
    assert numbers(url) == list(range(1, 1251))
    with connect(url) as store:
        snapshot = store.load_snapshot("r")
        assert snapshot is not None
        assert (snapshot.offset, snapshot.revision, snapshot.state.current_step) == (1250, 1, 5)


def importing_all(store: Any, source: Any, **options: Any) -> list[Imported]:
    importer = Importer(store, **options)
    return [importer.run(each) for each in source.runs()]


def test_two_imports_at_once_do_not_mix(source: Theirs, url: str) -> None:
    fill(source, "r", 1250)
    together = threading.Barrier(2)
    refused: list[str] = []

    def work() -> None:
        with connect(url, state_type=dict) as store, open_source(source.path) as opened:
            together.wait()
            refused.extend(each.refused for each in importing_all(store, opened))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # one of them at least was refused at some place, unless it came when the other had done
    assert len(refused) == 2
    assert import_(source.path, url).code == 0
    assert numbers(url) == list(range(1, 1251))


def test_whoever_comes_in_between_is_not_written_over(source: Theirs, url: str) -> None:
    fill(source, "r", 1250)
    with connect(url, state_type=dict) as store, open_source(source.path) as opened, connect(url) as other:
        append, calls = store.append, []

        def append_and_be_overtaken(*arguments: Any, **options: Any) -> Any:
            done = append(*arguments, **options)
            calls.append(done)
            other.append("r", [make_event("r", 9, payload={"n": -1})])
            return done

        store.append = append_and_be_overtaken  # type: ignore[method-assign]  # between two of its appends
        (done,) = importing_all(store, opened)
    assert "stands at offset 501, not 500" in done.refused
    assert numbers(url) == [*range(1, 501), -1]
    said = import_(source.path, url, "--json")
    assert said.code == 1
    assert "has other events up to offset 501" in result_of(said)["refused"]
    assert "run 'r'" in said.err


# -- beside what is there ------------------------------------------------------------------------------


def test_a_run_with_other_events_is_left_alone_and_the_others_are_imported(source: Theirs, url: str) -> None:
    fill(source, "r", 5)
    fill(source, "other", 2)
    with connect(url) as store:
        store.append("r", make_events("r", 2))
        store.append("r", make_events("r", 9))
    said = import_(source.path, url, "--json")
    assert said.code == 1
    assert "run 'r' is in the store already" in result_of(said)["refused"]
    assert result_of(said, "other")["added"] == 2
    assert len(numbers(url)) == 11
    assert numbers(url, "other") == [1, 2]


def test_a_run_that_has_gone_on_in_the_store_is_left_as_it_is(source: Theirs, url: str) -> None:
    fill(source, "r", 5)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=1))
    assert import_(source.path, url).code == 0
    with connect(url) as store:
        store.recover("r")
        store.append("r", make_events("r", 2, first=6), snapshot=make_state("r", current_step=7))
    said = import_(source.path, url, "--json")
    assert (said.code, result_of(said)["there"], result_of(said)["snapshots"]) == (0, 5, 0)
    with connect(url) as store:
        state = store.load_latest("r")
        assert state is not None
        assert state.current_step == 7


@pytest.mark.parametrize("is_newer", [False, True])
def test_of_two_states_the_newer_one_stays(source: Theirs, url: str, is_newer: bool) -> None:
    fill(source, "r", 2)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=1))
    assert import_(source.path, url).code == 0
    with connect(url) as store:
        store.save_snapshot("r", make_state("r", current_step=7))
    if is_newer:
        source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=8))
    said = import_(source.path, url, "--json")
    assert (said.code, result_of(said)["snapshots"]) == (0, int(is_newer))
    with connect(url) as store:
        state = store.load_latest("r")
        assert state is not None
        assert state.current_step == (8 if is_newer else 7)


# -- what does not read --------------------------------------------------------------------------------


@pytest.fixture
def spoilt(source: Theirs) -> Theirs:
    """A run of two events, three lines or rows that are none, and an event."""
    fill(source, "r", 2)
    for text in ('{"run_id": "r", "kind', '["r"]', '{"run_id": "another", "kind": "x"}'):
        source.write("r", text)
    fill(source, "r", 1, first=3)
    fill(source, "s", 1)
    return source


def test_what_does_not_read_is_named_with_its_place_and_the_rest_is_imported(spoilt: Theirs, url: str) -> None:
    before = footprint(spoilt.path)
    said = import_(spoilt.path, url, "--json")
    assert said.code == 1
    assert (result_of(said)["added"], result_of(said)["unreadable"]) == (3, 3)
    for number in (3, 4, 5):
        place = f"run 'r', row {number}:" if spoilt.is_database else f"events.jsonl, line {number}:"
        assert place in said.err
    assert numbers(url) == [1, 2, 3]
    assert numbers(url, "s") == [1]
    again = result_of(import_(spoilt.path, url, "--json"))
    assert (again["there"], again["added"], again["unreadable"]) == (3, 0, 3)
    assert footprint(spoilt.path) == before


def test_strict_stops_at_the_first(spoilt: Theirs, url: str) -> None:
    said = import_(spoilt.path, url, "--strict")
    assert said.code == 1
    assert said.err.count("does not read") == 1
    with connect(url, state_type=dict) as store, open_source(spoilt.path) as opened:
        with pytest.raises(CorruptRecordError):
            importing_all(store, opened, strict=True)
        assert store.run_info("s") is None


def test_a_line_that_was_cut_is_named_and_comes_in_when_it_is_whole(tmp_path: Path, url: str) -> None:
    source = Theirs(tmp_path / "runs", theirs.JSONLCheckpointer(str(tmp_path / "runs")))
    fill(source, "r", 3)
    whole = source.log("r").read_bytes()
    source.log("r").write_bytes(whole[:-20])
    said = import_(source.path, url, "--json")
    assert (said.code, result_of(said)["added"], result_of(said)["unreadable"]) == (1, 2, 1)
    assert "events.jsonl, line 3: does not read: it was cut off" in said.err
    source.log("r").write_bytes(whole)
    assert result_of(import_(source.path, url, "--json"))["added"] == 1
    assert numbers(url) == [1, 2, 3]


def test_a_state_that_does_not_read_is_named_and_its_backup_taken(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/target.db"
    source = Theirs(tmp_path / "runs", theirs.JSONLCheckpointer(str(tmp_path / "runs")))
    fill(source, "r", 1)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=4))
    snapshot = source.path / "r" / "snapshot.json"
    snapshot.rename(snapshot.with_name("snapshot.backup.json"))
    snapshot.write_text('{"run_id": "r", "status"')
    said = import_(source.path, url, "--json")
    assert (said.code, result_of(said)["unreadable"], result_of(said)["snapshots"]) == (1, 1, 1)
    with connect(url) as store:
        state = store.load_latest("r")
        assert state is not None
        assert state.current_step == source.checkpointer.load_latest("r").current_step == 4


@pytest.mark.parametrize("state", ["[1]", '{"run_id": "another"}', '{"$x": 1}', "{"])
def test_a_state_that_is_none_is_named(source: Theirs, tmp_path: Path, state: str) -> None:
    fill(source, "r", 1)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r"))
    if source.is_database:
        with closing(sqlite3.connect(source.path, isolation_level=None)) as connection:
            connection.execute("UPDATE snapshots SET state = ?", (state,))
    else:
        (source.path / "r" / "snapshot.json").write_text(state)
    said = import_(source.path, f"sqlite:{tmp_path}/target.db", "--json")
    assert (said.code, result_of(said)["added"], result_of(said)["unreadable"]) == (1, 1, 1)


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_a_record_in_an_archives_quarantine_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive"
    make: Any = {"sqlite": SQLiteCheckpointer, "jsonl": JSONLCheckpointer}[kind]
    with make(path) as archive:
        archive.append("r", make_events("r", 2))
        position, header = archive.position("r"), archive.header("r")
        assert isinstance(header, RunHeader)
        last: Cursor = position.cursor
        aside = ArchiveEntry(3, 7, None, None, b"\x00poison", "its checksum does not match")
        archive.write([RunBatch(header, last, [aside, ArchiveEntry(4, 8, None, None)])])
    said = import_(path, f"sqlite:{tmp_path}/target.db", "--json")
    assert (said.code, result_of(said)["added"], result_of(said)["unreadable"]) == (1, 2, 1)
    assert "its checksum does not match" in said.err


# -- how it is asked for -------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(source: Theirs, tmp_path: Path) -> None:
    fill(source, "r", 5)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r"))
    for target in (f"sqlite:{tmp_path}/target.db", f"jsonl:{tmp_path}/target", f"embedded:{tmp_path}/server"):
        said = import_(source.path, target, "--dry-run", "--json")
        assert (said.code, result_of(said)["added"], result_of(said)["snapshots"]) == (0, 5, 1)
        assert said.document["dry_run"] is True
        assert [path.name for path in tmp_path.iterdir() if path != source.path] == []
    url = f"jsonl:{tmp_path}/target"
    assert import_(source.path, url).code == 0
    fill(source, "r", 2, first=6)
    before = footprint(tmp_path / "target")
    said = import_(source.path, url, "--dry-run")
    assert "would be added" in said.out
    assert footprint(tmp_path / "target") == before


def test_only_the_runs_that_are_named_are_imported(source: Theirs, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/target.db"
    for run_id in ("r", "s", "t"):
        fill(source, run_id, 2)
    said = import_(source.path, url, "--run", "r", "--run", "t")
    assert said.code == 0
    with connect(url) as store:
        assert sorted(store.list_runs()) == ["r", "t"]
    said = import_(source.path, url, "--run", "nobody")
    assert said.code == 4
    assert "there is no run 'nobody'" in said.err


@pytest.fixture
def not_a_source(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "text.db").write_text("SQLite? no")
    (tmp_path / "empty").mkdir()
    with closing(sqlite3.connect(tmp_path / "foreign")) as connection:
        connection.execute("CREATE TABLE events (a)")
    yield
    assert (tmp_path / "text.db").read_text() == "SQLite? no"


@pytest.mark.usefixtures("not_a_source")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("text.db", "is no SQLite database"),
        ("empty", "has no run in it"),
        ("foreign", "another program's database"),
        ("nowhere", "there is nothing at that path"),
    ],
)
def test_what_is_no_source_is_refused_and_no_store_is_made(tmp_path: Path, name: str, says: str) -> None:
    said = import_(tmp_path / name, f"sqlite:{tmp_path}/target.db")
    assert said.code == 2
    assert says in said.err
    assert not (tmp_path / "target.db").exists()


def test_a_store_is_not_imported_into_itself(source: Theirs) -> None:
    fill(source, "r", 2)
    before = footprint(source.path)
    said = import_(source.path, f"{'sqlite' if source.is_database else 'jsonl'}:{source.path}")
    assert said.code == 2
    assert "is in the store itself" in said.err
    assert footprint(source.path) == before


def test_memory_is_no_place_to_import_into(source: Theirs) -> None:
    fill(source, "r", 2)
    assert import_(source.path, "memory:").code == 2
    with connect("memory:") as store, pytest.raises(ConfigurationError):
        Importer(store)


def test_a_directory_is_a_run_of_the_name_that_its_events_have(tmp_path: Path) -> None:
    # purpose-agent writes this one outside its directory
    writer = theirs.JSONLCheckpointer(str(tmp_path / "a" / "b" / "c"))
    writer.save_event(their_event("../../x", 1, n=1))
    url = f"sqlite:{tmp_path}/target.db"
    assert import_(tmp_path / "a", url).code == 0
    with connect(url) as store:
        assert store.list_runs() == ["../../x"]
        (event,) = store.list_events("../../x")
        assert isinstance(event, PAEvent)


def test_what_was_imported_is_exported_for_purpose_agent(source: Theirs, tmp_path: Path) -> None:
    fill(source, "r", 20)
    source.checkpointer.save_snapshot("r", their_state.RunState(run_id="r", current_step=3))
    url = f"jsonl:{tmp_path}/target"
    assert import_(source.path, url).code == 0
    assert run("export", "r", "--url", url, "--to", f"{tmp_path}/r.db").code == 0
    reader = theirs.SQLiteCheckpointer(f"{tmp_path}/r.db")
    assert reader.list_events("r") == source.checkpointer.list_events("r")
    assert reader.load_latest("r").to_dict() == source.checkpointer.load_latest("r").to_dict()


def test_batches_are_small_enough_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "_BATCH_BYTES", 10_000)
    source = Theirs(tmp_path / "runs", theirs.JSONLCheckpointer(str(tmp_path / "runs")))
    for seq in range(1, 9):
        source.checkpointer.save_event(their_event("r", seq, n=seq, text="x" * 6000))
    with (
        connect(f"sqlite:{tmp_path}/target.db", state_type=dict) as store,
        open_source(source.path) as opened,
    ):
        append, sizes = store.append, []

        def counting(run_id: str, events: Any, **options: Any) -> Any:
            sizes.append(len(events))
            return append(run_id, events, **options)

        store.append = counting  # type: ignore[method-assign]  # and counts them
        importing_all(store, opened)
    assert sizes == [2, 2, 2, 2]
