"""Runs whose ids have capitals: what our JSONL store begins, purpose-agent's own finds, and the reverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import EventKind, PAEvent, RunState, checkpoint

import runstream
from runstream.integrations.purpose_agent import connect
from runstream.repair.verify import verify_run
from runstream.stores.archive.jsonl import file_names
from tests.support.commands import run

PLAIN = ["Run 1", "USER:42", "a+B", "x" * 180 + "Y", "lower-case"]
ENCODED = ["team/A", "50%", "Ü", ".A", "A.", "A ", "CON", "a\\B", "A" * 201]


def event(run_id: str, seq: int) -> Any:
    return PAEvent(run_id, seq=seq, kind=EventKind.TOOL_RESULT)


def names(path: Path) -> set[str]:
    return {found.name for found in path.iterdir() if not found.name.startswith(".runstream")} - {".locks"}


@pytest.mark.parametrize("run_id", PLAIN)
def test_both_write_alternately_to_a_run_that_begins_here(run_id: str, tmp_path: Path) -> None:
    theirs = checkpoint.JSONLCheckpointer(str(tmp_path))
    with connect(f"jsonl:{tmp_path}") as ours:
        assert ours.list_events(run_id) == []
        assert names(tmp_path) == set()
        for seq in range(1, 7, 2):
            ours.save_event(event(run_id, seq))
            theirs.save_event(event(run_id, seq + 1))
            for store in (ours, theirs):
                assert [found.seq for found in store.list_events(run_id)] == list(range(1, seq + 2))
        ours.save_snapshot(run_id, RunState(run_id, current_step=6))
        assert theirs.load_latest(run_id).current_step == 6
        theirs.save_snapshot(run_id, RunState(run_id, current_step=7))
        assert getattr(ours.load_latest(run_id), "current_step", None) == 7
        assert (names(tmp_path), ours.list_runs()) == ({run_id}, [run_id])
        assert verify_run(run_id, sinks=[ours]).is_sound  # type: ignore[list-item]  # connect gives any store
        assert ours.delete_run(run_id)
        assert names(tmp_path) == set()


@pytest.mark.parametrize("run_id", ENCODED)
def test_an_id_that_is_unsafe_as_a_name_is_encoded(run_id: str, tmp_path: Path) -> None:
    with connect(f"jsonl:{tmp_path}") as store:
        store.save_event(event(run_id, 1))
        assert [found.seq for found in store.list_events(run_id)] == [1]
        assert (names(tmp_path), store.list_runs()) == ({file_names.encoded(run_id)}, [run_id])


def test_where_case_is_ignored_all_are_encoded(tmp_path: Path) -> None:
    (tmp_path / file_names.ABOUT.upper()).mkdir()  # as such a file system finds the archive's own file
    with connect(f"jsonl:{tmp_path}") as store:
        store.save_events([event("Run", 1), event("run", 2)])
    assert names(tmp_path) - {file_names.ABOUT.upper()} == {"%52un", "run"}


def test_who_wants_them_says_so_and_what_has_begun_stays(tmp_path: Path) -> None:
    with runstream.connect(f"jsonl:{tmp_path}", event_type=PAEvent) as plain:
        plain.save_event(event("Encoded", 1))
    with connect(f"jsonl:{tmp_path}") as store:
        for run_id in ("Encoded", "Plain"):
            store.save_event(event(run_id, 2))
    with connect(f"jsonl:{tmp_path}", plain_names=False) as other:
        for run_id in ("Encoded", "Plain", "Other"):
            other.save_event(event(run_id, 3))
        assert [[found.seq for found in other.list_events(each)] for each in ("Encoded", "Plain", "Other")] == [
            [1, 2, 3],
            [2, 3],
            [3],
        ]
    with runstream.connect(f"jsonl:{tmp_path}?plain_names=true") as asked:
        asked.save_event(runstream.create_event("Asked", "k"))
    assert names(tmp_path) == {"%45ncoded", "Plain", "%4fther", "Asked"}


def test_an_append_that_is_refused_makes_no_directory(tmp_path: Path) -> None:
    with connect(f"jsonl:{tmp_path}") as store:
        with pytest.raises(runstream.ConcurrencyConflict):
            store.append("Run", [event("Run", 1)], expected_offset=5)
        assert names(tmp_path) == set()


def test_it_is_imported_as_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with connect(f"jsonl:{source}") as ours:
        ours.save_event(event("Run 1", 1))
        checkpoint.JSONLCheckpointer(str(source)).save_event(event("Run 1", 2))
        ours.save_event(event("Run 1", 3))
    said = run("import", str(source), "--url", f"sqlite:{tmp_path}/all.db")
    assert said.code == 0, said.err
    with connect(f"sqlite:{tmp_path}/all.db") as store:
        assert (store.list_runs(), [found.seq for found in store.list_events("Run 1")]) == (["Run 1"], [1, 2, 3])
