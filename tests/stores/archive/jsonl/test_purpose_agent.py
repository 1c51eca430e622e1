"""One directory, two libraries: purpose-agent reads what is written here, and its own lines are read here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from purpose_agent.runtime import checkpoint as theirs
from purpose_agent.runtime import events as their_events
from purpose_agent.runtime import state as their_state

from runstream.model.errors import CorruptRecordError
from runstream.stores.archive.jsonl import JSONLCheckpointer
from tests.stores.archive.jsonl.lines import event, log_of, numbers, state


def test_purpose_agent_reads_what_was_written_here(tmp_path: Path) -> None:
    written = [event("r", 1, "run.started", text='a "quoted" ,"$offset":7} é\n'), event("r", 2), event("r", 3)]
    with JSONLCheckpointer(tmp_path) as store:
        store.save_events(written[:2])
        store.append("r", written[2:], snapshot=state("r", 7, data={"a": [1, {"b": None}]}))
        store.save_snapshot("r", state("r", 8), lane_id="side")
    reader = theirs.JSONLCheckpointer(str(tmp_path))
    assert [found.to_dict() for found in reader.list_events("r")] == [each.to_dict() for each in written]
    latest = reader.load_latest("r")
    assert (latest.current_step, latest.data, latest.status.value) == (7, {"a": [1, {"b": None}]}, "running")


def test_purpose_agents_directory_is_read_appended_to_and_still_read_by_it(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    kind = their_events.EventKind
    for number in (1, 2):
        writer.save_event(their_events.create_event("Run1", kind.RUN_STARTED, seq=number, number=number))
    writer.save_snapshot("Run1", their_state.RunState(run_id="Run1", session_id="s", current_step=4))
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "Run1") == [1, 2]
        assert store.list_runs() == ["Run1"]
        snapshot = store.load_snapshot("Run1")
        assert snapshot is not None
        assert (snapshot.state.current_step, snapshot.offset, snapshot.revision) == (4, 0, 1)
        appended = store.append("Run1", [event("Run1", 3), event("Run1", 4)], snapshot=state("Run1", 5))
        assert (appended.first_offset, appended.last_offset) == (3, 4)
        writer.save_event(their_events.create_event("Run1", kind.RUN_FINISHED, seq=5, number=5))
        assert numbers(store, "Run1") == [1, 2, 3, 4, 5]
        store.save_event(event("Run1", 6, "text.delta"))
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "Run1") == [1, 2, 3, 4, 5, 6]
        info = store.run_info("Run1")
        assert info is not None
        assert (info.status, info.last_offset, info.first_hot, info.archived_offset) == ("completed", 6, 1, 6)
        recovered = store.recover("Run1")
        assert recovered.state is not None
        assert recovered.state.current_step == 5
    assert [found.payload["number"] for found in writer.list_events("Run1")] == [1, 2, 3, 4, 5, 6]
    assert writer.load_latest("Run1").current_step == 5
    assert {path.name for path in tmp_path.iterdir()} == {"Run1", ".locks", ".runstream.json"}


def test_the_last_word_of_purpose_agents_run_is_its_status(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    writer.save_event(their_events.PAEvent("r", kind=their_events.EventKind.RUN_STARTED, session_id="s"))
    done = their_state.RunState(run_id="r", status=their_state.RunStatus.COMPLETED)
    writer.save_snapshot("r", done)
    writer.save_snapshot("only", done)
    for path, moment in ((log_of(tmp_path), 100), (tmp_path / "r" / "snapshot.json", 200)):
        os.utime(path, (moment, moment))
    with JSONLCheckpointer(tmp_path) as store:
        found = {info.run_id: info for info in store.runs()}
        assert (found["r"].status, found["r"].session_id, found["r"].updated_at) == ("completed", "s", 200.0)
        assert (found["only"].status, found["only"].last_offset) == ("completed", 0)
        os.utime(log_of(tmp_path), (300, 300))
        again = store.run_info("r")
        assert again is not None
        assert (again.status, again.updated_at) == ("running", 300.0)
        store.save_event(event("only", 1))
        assert numbers(store, "only") == [1]


def test_what_looks_like_a_tag_in_a_plain_line_comes_out_as_it_is(tmp_path: Path) -> None:
    payload = {"number": 1, "a": {"$set": [1]}, "$offset": 5, "b": {"$dict": [[1, 2]]}, "c": {"$tuple": "x"}}
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    writer.save_event(their_events.PAEvent("r", payload=payload))
    compact = {"run_id": "r", "kind": "x", "payload": {"$offset": 5, "$chain": 6}}
    with log_of(tmp_path).open("a") as file:
        file.write(json.dumps(compact, separators=(",", ":")) + "\n")
    with JSONLCheckpointer(tmp_path) as store:
        assert [found.payload for found in store.list_events("r")] == [payload, compact["payload"]]


def test_a_plain_line_that_does_not_read_is_corrupt_and_its_neighbours_are_not(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))

    def save(number: int) -> None:
        writer.save_event(their_events.PAEvent("r", seq=number, payload={"number": number}))

    save(1)
    with log_of(tmp_path).open("ab") as file:
        file.write(b'not \xff JSON\n\n{"run_id": "other", "kind": "x"}\n[1]\n')
    save(5)
    with JSONLCheckpointer(tmp_path) as store:
        store.save_event(event("r", 6))
        with pytest.raises(CorruptRecordError) as caught:
            list(store.read("r"))
        assert (caught.value.offset, caught.value.raw) == (2, b"not \xff JSON")
        assert [item.offset for item in store.read("r", on_corrupt="skip")] == [1, 5, 6]
        assert [(found.offset, found.raw) for _, found in store.quarantine()] == [
            (2, b"not \xff JSON"),
            (3, b'{"run_id": "other", "kind": "x"}'),
            (4, b"[1]"),
        ]


def test_a_plain_last_line_without_a_line_break_counts_and_is_not_glued_to_ours(tmp_path: Path) -> None:
    writer = theirs.JSONLCheckpointer(str(tmp_path))
    for number in (1, 2):
        writer.save_event(their_events.PAEvent("r", seq=number, payload={"number": number}))
    log_of(tmp_path).write_bytes(log_of(tmp_path).read_bytes()[:-1])
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2]
        store.save_event(event("r", 3))
        assert numbers(store, "r") == [1, 2, 3]
    with JSONLCheckpointer(tmp_path) as store:
        assert numbers(store, "r") == [1, 2, 3]
    assert len(writer.list_events("r")) == 3
