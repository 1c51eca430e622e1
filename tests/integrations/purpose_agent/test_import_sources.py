"""What an import makes of sources that are damaged, partly wanted, or no source."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint as theirs
from purpose_agent.runtime import state as their_state

from runstream import (
    ConfigurationError,
    CorruptRecordError,
    JSONLCheckpointer,
    PAEvent,
    RunState,
    SQLiteCheckpointer,
    connect,
)
from runstream.integrations.purpose_agent import importer
from runstream.integrations.purpose_agent.directory import open_source
from runstream.integrations.purpose_agent.importer import Importer
from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.results import Cursor
from tests.integrations.purpose_agent.sources import (
    Theirs,
    fill,
    footprint,
    import_,
    importing_all,
    numbers,
    result_of,
    their_event,
)
from tests.support.commands import run
from tests.support.operations import operations_of
from tests.support.samples import make_events


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
        position, header = archive.position("r"), operations_of(archive).header("r")
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


IDS = ["Run One", "RUN", "trip 1", "team/A", ".r"]


def in_two_homes(path: Path) -> Any:
    """Events 1, 3 and 5 of each run in an archive, 2 and 4 where purpose-agent's writer puts them, beside it."""
    writer = theirs.JSONLCheckpointer(str(path))
    with JSONLCheckpointer[Any, Any](path) as archive:
        for run_id in IDS:
            ours = [PAEvent(run_id, seq=n, ts=float(n), kind="x", payload={"n": n}) for n in (1, 3, 5)]
            archive.append(run_id, ours, keys=["k", None, None], snapshot=RunState(run_id, current_step=5))
            archive.save_snapshot(run_id, RunState(run_id, current_step=3), lane_id="a")
            for n in (2, 4):
                writer.save_event(dataclasses.replace(their_event(run_id, n, n=n), ts=float(n)))
            writer.save_snapshot(run_id, their_state.RunState(run_id, current_step=4))
    return writer


@pytest.mark.one_in(4)
def test_a_run_in_two_homes_comes_in_as_one_in_the_order_of_time(tmp_path: Path, url: str) -> None:
    writer = in_two_homes(tmp_path / "runs")
    before = footprint(tmp_path / "runs")
    said = import_(tmp_path / "runs", url, "--json")
    assert said.code == 0, said.err
    assert footprint(tmp_path / "runs") == before
    with connect(url) as store:
        assert sorted(store.list_runs()) == sorted(IDS)
        for run_id in IDS:
            assert (result_of(said, run_id)["added"], result_of(said, run_id)["snapshots"]) == (5, 2)
            assert numbers(url, run_id) == [1, 2, 3, 4, 5]
            snapshots = [store.load_snapshot(run_id, lane_id=lane_id) for lane_id in (None, "a")]
            assert [one and one.state.current_step for one in snapshots] == [4, 3]
            assert store.append(run_id, [PAEvent(run_id, seq=1)], keys=["k"]).first_offset == 1
        again = import_(tmp_path / "runs", url, "--json")
        assert [(one["there"], one["added"], one["snapshots"]) for one in again.document["runs"]] == [
            (5, 0, 0)
        ] * 5
        writer.save_event(their_event("RUN", 6, n=6))
        more = import_(tmp_path / "runs", url, "--run", "RUN", "--json")
        assert (more.code, result_of(more, "RUN")["added"]) == (0, 1)
        assert numbers(url, "RUN") == [1, 2, 3, 4, 5, 6]


def test_a_copy_of_a_run_is_no_second_home(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path / "runs"))
    writer.save_event(their_event("Run", 1, n=1))
    shutil.copytree(tmp_path / "runs" / "Run", tmp_path / "runs" / "old" / "Run")
    url = f"sqlite:{tmp_path}/target.db"
    assert import_(tmp_path / "runs", url).code == 0
    assert numbers(url, "Run") == [1]


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
