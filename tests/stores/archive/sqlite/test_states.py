"""What a SQLite archive keeps of states: JSON, or msgpack of a lane's state that JSON has no types for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runstream import CorruptRecordError, connect
from runstream.codec.lossless_json import load_object
from runstream.integrations.purpose_agent.database import DatabaseSource
from runstream.integrations.purpose_agent.source import SourceSnapshot
from tests.stores.archive.sqlite.database import query
from tests.support.operations import operations_of
from tests.support.samples import make_event

PLAIN = {"run_id": "r", "data": {"n": 1, "text": "é", "list": [1.5, None]}}
BYTES = {"run_id": "r", "data": {"n": 1, "bytes": b"\xff\0" * 500, "nested": {"b": [b""], "big": 2**70}}}
TUPLE = {"run_id": "r", "data": {"t": (1, b"x")}}
KINDS = [
    (None, PLAIN, "text"),
    (None, BYTES, "text"),
    ("l", PLAIN, "text"),
    ("l", BYTES, "blob"),
    ("l", TUPLE, "text"),
]


def opened(path: Path, **options: Any) -> Any:
    return connect(f"sqlite:{path}", state_type=dict, **options)


def saved(path: Path, lane_id: str | None, state: dict[str, Any]) -> None:
    with opened(path) as store:
        store.append("r", [make_event("r", 1, lane_id="l")], snapshot={"run_id": "r"}, lane_id=lane_id)
        store.append("r", [make_event("r", 2, lane_id="l")], snapshot=state, lane_id=lane_id)


@pytest.mark.parametrize(("lane_id", "state", "kind"), KINDS)
def test_a_state_is_read_as_it_was_saved_however_it_is_kept(
    path: Path, lane_id: str | None, state: dict[str, Any], kind: str
) -> None:
    saved(path, lane_id, state)
    table = "snapshots" if lane_id is None else "lane_snapshots"
    of = "SELECT typeof(state) FROM"
    assert (
        query(path, f"{of} {table}") == query(path, f"{of} snapshot_history ORDER BY id DESC LIMIT 1") == [(kind,)]
    )
    with opened(path) as store:
        assert store.load_snapshot("r", lane_id=lane_id).state == state
        assert store.recover("r", lane_id=lane_id).state == state
        assert [one.state for one in store.snapshot_history("r", lane_id=lane_id)] == [{"run_id": "r"}, state]
        (told,) = operations_of(store).read_back_snapshots("r")
        assert load_object(told.data) == state  # what goes to another archive, or to Redis, is text
        assert store.check_integrity() == []


@pytest.mark.parametrize("state", [PLAIN, BYTES])
def test_the_state_of_a_run_is_json_that_purpose_agent_reads(path: Path, state: dict[str, Any]) -> None:
    saved(path, None, state)
    ((text,),) = query(path, "SELECT state FROM snapshots")
    assert json.loads(text).keys() == state.keys()


@pytest.mark.parametrize("value", ["x'ff00'", "x'7b7d'", "'{}'", "CAST('{}' AS BLOB)", "zeroblob(length(state))"])
def test_a_state_in_msgpack_that_was_damaged_is_an_error(path: Path, value: str) -> None:
    saved(path, "l", BYTES)
    for table in ("lane_snapshots", "snapshot_history"):
        query(path, f"UPDATE {table} SET state = {value} WHERE typeof(state) = 'blob'")
    with opened(path) as store:
        with pytest.raises(CorruptRecordError, match="the snapshot of run 'r' does not read"):
            store.load_snapshot("r", lane_id="l")
        with pytest.raises(CorruptRecordError):
            list(store.snapshot_history("r", lane_id="l"))
        assert len(store.check_integrity()) == 2
        assert len(list(store.read("r"))) == 2


def test_an_import_reads_a_state_in_msgpack(path: Path) -> None:
    saved(path, "l", BYTES)
    source = DatabaseSource(path)
    try:
        (run,) = source.runs()
        (found,) = run.snapshots()
    finally:
        source.close()
    assert isinstance(found, SourceSnapshot)
    assert (found.lane_id, found.fields) == ("l", BYTES)


def test_a_fork_begins_with_a_state_in_msgpack(path: Path) -> None:
    saved(path, "l", BYTES)
    with opened(path) as store:
        store.fork("r", "f")
        assert store.load_snapshot("f", lane_id="l").state == {**BYTES, "run_id": "f"}


def test_no_history_is_kept_where_none_is_wanted(path: Path) -> None:
    with opened(path, keep_snapshots=0) as store:
        for number in range(3):
            store.append("r", [make_event("r", number + 1)], snapshot={**BYTES, "n": number}, lane_id="l")
    assert query(path, "SELECT count(*) FROM snapshot_history") == [(0,)]


def test_a_state_that_replaces_another_is_written_once(path: Path) -> None:
    """SQLite would write the pages of the one before, too, which become free: with zeros."""
    large = {"run_id": "r", "data": {"bytes": b"x" * 400_000}}
    with opened(path, keep_snapshots=0) as store:
        sizes = []
        for number in range(4):
            store.append("r", [make_event("r", number + 1)], snapshot={**large, "n": number}, lane_id="l")
            sizes.append(Path(f"{path}-wal").stat().st_size)
    assert sizes[-1] - sizes[-2] < 1.2 * 400_000


def test_nothing_of_a_run_that_was_deleted_is_in_the_free_pages(path: Path) -> None:
    with opened(path) as store:
        store.append("other", [make_event("other", 1)])
        store.append("r", [make_event("r", 1, payload={"text": "secret " * 3000})], snapshot={"run_id": "r"})
        store.append("r", [], snapshot={"run_id": "r", "data": {"b": b"secret " * 3000}}, lane_id="l")
        store.delete_run("r")
    assert b"secret" not in path.read_bytes()
