"""``runstream import``: purpose-agent's own files, and archives, each event once and as it was."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from purpose_agent.runtime import state as their_state

from runstream import (
    JSONLCheckpointer,
    SQLiteCheckpointer,
    connect,
)
from tests.integrations.purpose_agent.sources import (
    KIND,
    Theirs,
    fill,
    footprint,
    import_,
    numbers,
    result_of,
    their_event,
)
from tests.support.other_texts import rewrite
from tests.support.random_runs import one_archive
from tests.support.samples import RICH_VALUES, make_event, make_events, make_state, same

pytestmark = pytest.mark.one_in(2)


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


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_states_are_compared_by_value(tmp_path: Path, kind: str, url: str) -> None:
    """Another process has sets in another order: a state that the store has is not saved once more."""
    archive = one_archive(kind, tmp_path)
    tags = {f"tag {n}" for n in range(40)}
    archive.append(
        "r", [make_event("r", 1)], snapshot=make_state("r", data={"tags": tags, "in": {frozenset(tags)}})
    )
    archive.close()
    path = Path(archive.location.partition(":")[2])
    assert result_of(import_(path, url, "--json"))["snapshots"] == 1
    rewrite(archive)
    with one_archive(kind, tmp_path) as later:
        later.append("r", [make_event("r", 2)])
    again = result_of(import_(path, url, "--json"))
    assert (again["there"], again["added"], again["snapshots"]) == (1, 1, 0)


@pytest.mark.one_in(2)
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
