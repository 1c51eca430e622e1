"""P12: what is damaged in one row of a SQLite archive holds up no other, and shows as an error of ours."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import ConfigurationError, CorruptRecordError, DrainWorker, SQLiteCheckpointer, StoreUnavailable
from runstream.repair.verify import verify_run
from tests.support.backends import Backend, RedisBackend
from tests.support.drain_tools import emit, open_hot, parked
from tests.support.operations import last_seq
from tests.support.samples import make_event, make_state

Store = SQLiteCheckpointer[Any, Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of six events in two lanes, each event with a key and a snapshot."""
    path = tmp_path_factory.mktemp("sound") / "archive.db"
    with closing(Store(path)) as store:
        for run_id in ("r", "other"):
            for seq in range(1, 7):
                event = make_event(run_id, seq, lane_id=f"lane{seq % 2}")
                store.append(run_id, [event], keys=[f"k{seq}"], snapshot=make_state(run_id, current_step=seq))
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(sound, tmp_path / "archive.db"))


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(statement)


DAMAGED = ("x'ff'", "CAST(x'ff' AS TEXT)", "x'7b7d'", "'{}'", "'[1]'", "'{'", "12", f"'{'[' * 3000}'")
NOTED = ["start_offset", "last_offset", "last_chain", "status", "session_id", "updated_at"]


@pytest.mark.parametrize("value", DAMAGED)
@pytest.mark.parametrize("column", ["data", "chain", "key"])
def test_a_damaged_row_is_reported_with_its_place_and_its_neighbours_are_read(
    path: Path, column: str, value: str
) -> None:
    change(path, f"UPDATE events SET {column} = {value} WHERE run_id = 'r' AND offset = 3")
    with closing(Store(path)) as store:
        assert [item.offset for item in store.read("r", on_corrupt="skip")] == [1, 2, 4, 5, 6]
        assert [item.offset for item in store.read("r", on_corrupt="raw", reverse=True)] == [6, 5, 4, 3, 2, 1]
        with pytest.raises(CorruptRecordError) as caught:
            store.list_events("r")
        assert (caught.value.run_id, caught.value.offset) == ("r", 3)
        difference = verify_run("r", sinks=[store]).difference
        assert difference is not None
        assert difference.offset == 3
        assert verify_run("other", sinks=[store]).is_sound
        assert last_seq(store, "r", "lane0") == 6
        assert store.append("r", [make_event("r", 7)]).last_offset == 7


@pytest.mark.parametrize("value", ["x'ff'", "CAST(x'ff' AS TEXT)", "'text'", "1.5"])
@pytest.mark.parametrize("column", ["seq", "ts", "kind", "lane_id"])
def test_a_damaged_column_does_not_keep_the_event_from_being_read(path: Path, column: str, value: str) -> None:
    """The event is in its text; verify says that the column is not that of the text."""
    change(path, f"UPDATE events SET {column} = {value} WHERE run_id = 'r' AND offset = 6")
    with closing(Store(path)) as store:
        assert [event.seq for event in store.list_events("r")] == [1, 2, 3, 4, 5, 6]
        difference = verify_run("r", sinks=[store]).difference
        assert difference is not None
        assert difference.offset == 6
        assert last_seq(store, "r", "lane0") == 6
        assert store.append("r", [make_event("r", 7)]).last_offset == 7


@pytest.mark.parametrize("column", NOTED)
def test_a_damaged_row_of_a_run_holds_up_no_other_run(path: Path, column: str) -> None:
    change(path, f"UPDATE runs SET {column} = x'ff' WHERE run_id = 'r'")
    with closing(Store(path)) as store:
        assert store.list_runs() == ["other"]
        assert len(store.list_events("other")) == 6
        for read in (store.run_info, store.list_events, store.recover):
            with pytest.raises(CorruptRecordError, match=f"row of run 'r' does not read: its column {column}"):
                read("r")
        assert [text for text in store.check_integrity() if column in text]
        difference = verify_run("r", sinks=[store]).difference
        assert difference is not None
        assert column in str(difference)


@pytest.mark.parametrize(
    ("column", "value"),
    [*((column, "x'ff'") for column in ("offset", "revision", "token", "state")), ("revision", str(2**63 - 1))],
)
def test_a_damaged_snapshot_is_reported_and_replaced(path: Path, column: str, value: str) -> None:
    change(path, f"UPDATE snapshots SET {column} = {value} WHERE run_id = 'r'")
    change(path, f"UPDATE snapshot_history SET {column} = {value} WHERE run_id = 'r' AND offset = 3")
    with closing(Store(path)) as store:
        with pytest.raises(CorruptRecordError):
            store.load_snapshot("r")
        with pytest.raises(CorruptRecordError):
            store.read_back_snapshots("r")
        if column != "state":  # the damaged one was saved later: it may be the one that fits
            with pytest.raises(CorruptRecordError):
                store.snapshot_at("r", 2)
        for offset in (4, 5):
            at = store.snapshot_at("r", offset)
            assert at is not None
            assert at.state.current_step == offset
        assert len(store.list_events("r")) == 6
        store.save_snapshot("r", make_state("r", current_step=8))
        assert store.load_latest("r").current_step == 8  # type: ignore[union-attr] # it was saved


def test_a_damaged_row_of_the_quarantine_is_listed_with_the_others(path: Path) -> None:
    for offset, raw in ((7, "x'01'"), (8, "'text'"), (9, "x'02'")):
        change(path, f"INSERT INTO quarantine VALUES ('r', {offset}, 5, NULL, {raw}, 'why', 1.0, NULL)")
    change(path, "UPDATE quarantine SET chain = x'ff', reason = x'ff', quarantined_at = 'noon' WHERE offset = 8")
    with closing(Store(path)) as store:
        found = [(entry.offset, entry.raw) for _, entry in store.quarantine()]
        assert found == [(7, b"\x01"), (8, b"text"), (9, b"\x02")]


def test_a_damaged_schema_is_an_error_of_ours(path: Path) -> None:
    """SQLite names what is damaged in its message, which Python cannot always decode."""
    gold = path.read_bytes()
    found = re.finditer(rb"CREATE (TABLE|INDEX|VIEW) ", gold)
    spots = [at for match in found for at in (match.end() - 3, match.end())]
    said = set()
    for spot in spots:
        for byte in (0xFF, 0x00):
            for each in path.parent.glob("archive.db*"):
                each.unlink()
            path.write_bytes(gold[:spot] + bytes([byte]) + gold[spot + 1 :])
            try:
                with closing(Store(path)) as store:
                    store.list_events("r")
                    store.append("r", [make_event("r", 7)], snapshot=make_state("r"))
                    store.check_integrity()
            except (StoreUnavailable, ConfigurationError) as error:
                said.add(type(error.__cause__))
    assert UnicodeDecodeError in said  # otherwise this shows nothing


def test_the_worker_goes_on_past_a_damaged_row(make_backend: Any, path: Path) -> None:
    """Of the run that it is of nothing is trimmed; every other run is archived."""
    backend: Backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    hot = open_hot(backend)
    with closing(Store(path)) as store:
        for run_id in ("mine", "yours"):
            emit(hot, run_id, 3)
        assert DrainWorker(hot, [store], trim="never").drain_once().events == 6
        change(path, "UPDATE runs SET last_offset = x'ff' WHERE run_id = 'mine'")
        for run_id in ("mine", "yours"):
            emit(hot, run_id, 3, first=4)
        report = DrainWorker(hot, [store], trim="archived").drain_once()
        assert (report.events, report.parked) == (3, 1)
        assert "last_offset was damaged" in parked(hot)["mine"]
        assert len(hot.list_events("mine")) == 6
        assert len(store.list_events("yours")) == 6
