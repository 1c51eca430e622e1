"""A file of schema version 1 gets checksums: columns when it is opened, values once its rows are proven."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import CorruptRecordError, SQLiteCheckpointer
from runstream.repair.verify import verify_run
from runstream.stores.archive.sqlite import schema
from tests.stores.archive.sqlite.database import dump, query
from tests.support.commands import run
from tests.support.samples import make_events, make_state

KEPT = Path(__file__).parents[3] / "kept" / "v0_1_0" / "archive.db"
_UNPROVEN = """SELECT (SELECT count(*) FROM events WHERE checksum IS NULL),
    (SELECT count(*) FROM snapshots WHERE checksum IS NULL OR state_checksum IS NULL),
    (SELECT count(*) FROM lane_snapshots WHERE checksum IS NULL OR state_checksum IS NULL),
    (SELECT count(*) FROM snapshot_history WHERE checksum IS NULL OR state_checksum IS NULL)"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that version 0.1.0 wrote."""
    return Path(shutil.copy(KEPT, tmp_path / "archive.db"))


def histories(store: SQLiteCheckpointer[Any, Any]) -> dict[str, Any]:
    return {run_id: list(store.read_back(run_id, 0, 2**40)) for run_id in store._operations.run_ids()}


def test_all_that_it_holds_is_there_and_is_proven_when_the_file_is_checked(path: Path) -> None:
    (events,) = query(path, "SELECT count(*) FROM events")[0]
    with SQLiteCheckpointer(path) as store:
        before = histories(store)
        assert query(path, "PRAGMA user_version") == [(5,)]
        assert query(path, _UNPROVEN)[0][0] == events > 50
        assert min(query(path, _UNPROVEN)[0]) > 0
        problems = store.check_integrity()
        assert query(path, _UNPROVEN) == [(0, 0, 0, 0)]
        assert problems == []
        assert histories(store) == before
        assert store.check_integrity() == []


def test_verify_proves_it_too(path: Path) -> None:
    assert run("verify", "--archive", f"sqlite:{path}").code == 0
    assert query(path, _UNPROVEN) == [(0, 0, 0, 0)]


def test_what_was_changed_before_is_reported_and_gets_no_checksum(path: Path) -> None:
    query(path, "UPDATE events SET data = replace(data, 'seq', 'sep') WHERE run_id = 'lanes' AND offset = 2")
    with SQLiteCheckpointer(path) as store:
        problems = store.check_integrity()
        assert problems
        assert all("event 2 of run 'lanes'" in problem for problem in problems)
        difference = verify_run("lanes", sinks=[store]).difference
        assert difference is not None
        assert difference.offset == 2
    lacking = query(path, "SELECT DISTINCT run_id FROM events WHERE checksum IS NULL")
    assert lacking == [("lanes",)]


def test_what_changes_afterwards_shows_at_the_next_read(path: Path) -> None:
    with SQLiteCheckpointer(path) as store:
        store.check_integrity()
        query(path, "UPDATE events SET data = data || ' ' WHERE run_id = 'lanes'")
        with pytest.raises(CorruptRecordError, match="its checksum is of another content"):
            store.list_events("lanes")


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dump(path)

    def fail(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "take_over_lanes", fail)
        with pytest.raises(Exception, match="killed"):
            SQLiteCheckpointer(path)
    assert dump(path) == before
    assert query(path, "PRAGMA user_version") == [(1,)]
    SQLiteCheckpointer(path).close()
    assert query(path, "PRAGMA user_version") == [(5,)]


def test_a_process_of_version_1_that_has_the_file_open_cannot_write_to_it(path: Path) -> None:
    """It would leave checksums of another content behind. When it opens the file anew, it refuses it."""
    with closing(sqlite3.connect(path)) as theirs:
        assert theirs.execute("SELECT count(*) FROM runs").fetchone()[0] > 10
        SQLiteCheckpointer(path).close()
        for statement in (
            """INSERT INTO runs (run_id, session_id, status, start_offset, start_chain, last_offset, last_chain,
            created_at, updated_at, parent_run_id, parent_offset) VALUES ('lanes', '', '', 0, 1, 9, 1, 0, 0, '', 0)
            ON CONFLICT (run_id) DO UPDATE SET last_offset = excluded.last_offset""",
            """INSERT INTO lanes (run_id, lane_id, last_offset) VALUES ('lanes', 'main', 9)
            ON CONFLICT (run_id, lane_id) DO UPDATE SET last_offset = excluded.last_offset""",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
                theirs.execute(statement)


def test_rows_of_purpose_agent_have_no_checksum_until_they_are_adopted(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with SQLiteCheckpointer(path) as store:
        store.save_events(make_events("r", 2))
        query(
            path,
            "INSERT INTO events (run_id, seq, ts, kind, data) VALUES ('r', 3, 1.0, 'x', ?)",
            '{"run_id":"r","kind":"x","ts":1.0,"seq":3}',
        )
        assert query(path, "SELECT count(*) FROM events WHERE checksum IS NULL") == [(1,)]
    with SQLiteCheckpointer(path) as store:
        assert [event.seq for event in store.list_events("r")] == [1, 2, 3]
        assert query(path, "SELECT count(*) FROM events WHERE checksum IS NULL") == [(0,)]
        query(path, "UPDATE events SET data = replace(data, '3', '4') WHERE offset = 3")
        with pytest.raises(CorruptRecordError):
            store.list_events("r")


@pytest.mark.parametrize("table", ["events", "snapshots"])
def test_an_import_of_an_archive_takes_nothing_that_was_damaged(tmp_path: Path, table: str) -> None:
    path = tmp_path / "runs.db"
    with SQLiteCheckpointer(path) as store:
        store.append("r", make_events("r", 2), snapshot=make_state("r", current_step=1))
    column = {"events": "data", "snapshots": "state"}[table]
    query(path, f"UPDATE {table} SET {column} = replace({column}, 'e', 'f')")
    said = run("import", str(path), "--url", f"jsonl:{tmp_path / 'other'}")
    assert "its checksum is of another content" in said.out + said.err


def test_a_file_of_version_2_gets_tags_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    with SQLiteCheckpointer(path) as store:
        store.save_events(make_events("r", 3))
        before = list(store.runs())
    query(path, "DROP TABLE tags")
    query(path, "DROP INDEX runs_by_creation")
    query(path, "PRAGMA user_version = 2")
    with SQLiteCheckpointer(path) as store:
        assert query(path, "PRAGMA user_version") == [(5,)]
        assert list(store.runs()) == list(store.runs(page="")) == before
        store.append("r", [], tags={"user": "42"})
        assert [info.tags for info in store.runs(tags={"user": "42"})] == [{"user": "42"}]
        assert store.check_integrity() == []


def test_a_file_of_version_3_learns_of_forks_when_it_is_opened_and_its_rows_stay_as_they_are(
    tmp_path: Path,
) -> None:
    path = tmp_path / "archive.db"
    with SQLiteCheckpointer(path) as store:
        store.save_events(make_events("r", 3))
        before = list(store.runs())
    for column in ("identity", "parent_identity"):
        query(path, f"ALTER TABLE runs DROP COLUMN {column}")
    query(path, "DROP INDEX runs_by_parent")
    query(path, "PRAGMA user_version = 3")
    rows = query(path, "SELECT * FROM runs")
    with SQLiteCheckpointer(path) as store:
        assert query(path, "PRAGMA user_version") == [(5,)]
        assert query(path, "SELECT * FROM runs") == [(*row, None, None) for row in rows]
        assert (list(store.runs()), store.check_integrity()) == (before, [])
        assert store.fork("r", "f").parent == ("r", 3)
        assert store.check_integrity() == []
    query(path, "UPDATE runs SET parent_identity = NULL WHERE run_id = 'f'")
    with SQLiteCheckpointer(path) as store, pytest.raises(CorruptRecordError):
        store.list_events("f")
