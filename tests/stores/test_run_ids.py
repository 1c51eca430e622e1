"""Any run id names a run of its own, in every store, and what is no run id is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runstream.model.errors import InvalidRunId
from tests.support.backends import Store, info_of, latest
from tests.support.samples import make_event, make_events, make_state

HOSTILE_IDS = [
    "ünïcode-日本-🎉",
    "a:b",
    "100%",
    "a%3Ab",
    "{tag}",
    "line\nbreak\r\ttab",
    "nul\x00byte",
    "../../x",
    "..",
    ".",
    "a/b",
    "/etc/passwd",
    "C:\\windows",
    " ",
    "trailing. ",
    "*",
    "[a-z]?",
    "UPPER",
    "-rf",
    "$tuple",
    "events.jsonl",
    "'; DROP TABLE events; --",
    "x" * 512,
    "é" * 256,
    "\u202e\u2028",
    "e\u0301",
]


def write_and_check(store: Store, run_id: str) -> None:
    events = make_events(run_id, 2, session_id=run_id)
    state = make_state(run_id, session_id=run_id)
    store.append(run_id, events, snapshot=state)
    store.save_snapshot(run_id, state, lane_id=run_id)
    assert store.list_events(run_id) == events
    assert store.load_latest(run_id) == state
    snapshot = store.load_snapshot(run_id, lane_id=run_id)
    assert snapshot is not None
    assert snapshot.state == state
    assert info_of(store, run_id).run_id == run_id


@pytest.mark.one_in(2)
@pytest.mark.parametrize("run_id", HOSTILE_IDS, ids=ascii)
def test_any_run_id_names_a_run(store: Store, tmp_path: Path, run_id: str) -> None:
    write_and_check(store, run_id)
    assert store.list_runs() == [run_id]
    assert [info.run_id for info in store.runs(session_id=run_id)] == [run_id]
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.parts[:2] == ("outer", "inner") for path in written), "written outside of the directory"
    assert store.delete_run(run_id)
    assert store.list_runs() == []


def test_no_two_run_ids_are_taken_for_each_other(store: Store) -> None:
    """Ids that differ in case, in encoding or in Unicode form, or that look like the name of a file or key."""
    run_ids = [
        *HOSTILE_IDS,
        *("upper", "Upper", "é", "a%2Fb", "a%253Ab", "a", "a:snapshot", "a:snapshot:events", "a:events", "a:meta"),
        *(
            "\u00e9" * 255,
            "x" * 511,
            "x" * 511 + "y",
            "a\\b",
            "%",
            "%25",
            "trailing.",
            "trailing",
            "b:",
            ":b",
            "con",
        ),
    ]
    for run_id in run_ids:
        write_and_check(store, run_id)
    assert sorted(store.list_runs()) == sorted(run_ids)
    for run_id in run_ids[::2]:
        assert store.delete_run(run_id)
    for run_id in run_ids[1::2]:
        assert [event.run_id for event in store.list_events(run_id)] == [run_id] * 2
        assert latest(store, run_id).run_id == run_id


def test_a_lane_is_not_taken_for_another_run(store: Store) -> None:
    """Run ``a:snapshot`` and the lane ``events`` of run ``a`` have keys of their own."""
    store.save_snapshot("a", make_state("a", purpose="lane"), lane_id="events")
    store.append("a:snapshot", make_events("a:snapshot", 2), snapshot=make_state("a:snapshot"))
    store.save_events(make_events("a", 1))
    snapshot = store.load_snapshot("a", lane_id="events")
    assert snapshot is not None
    assert snapshot.state.purpose == "lane"
    assert store.load_latest("a") is None
    assert store.delete_run("a")
    assert len(store.list_events("a:snapshot")) == 2
    assert store.load_latest("a:snapshot") is not None


# -- bad input -------------------------------------------------------------------------------------------

BAD_IDS = ["", "x" * 513, "é" * 257, "\ud800", 5, None, b"r", ["r"]]
CALLS: dict[str, Callable[[Store, Any], Any]] = {
    "save_event": lambda store, run_id: store.save_event(make_event(run_id)),
    "save_events": lambda store, run_id: store.save_events([make_event("good"), make_event(run_id)]),
    "append": lambda store, run_id: store.append(run_id, [make_event(run_id)]),
    "append nothing": lambda store, run_id: store.append(run_id, []),
    "append snapshot": lambda store, run_id: store.append(run_id, [], snapshot=make_state("r")),
    "save_snapshot": lambda store, run_id: store.save_snapshot(run_id, make_state("r")),
    "load_latest": lambda store, run_id: store.load_latest(run_id),
    "load_snapshot": lambda store, run_id: store.load_snapshot(run_id, lane_id="main"),
    "recover": lambda store, run_id: store.recover(run_id),
    "list_events": lambda store, run_id: store.list_events(run_id),
    "read": lambda store, run_id: list(store.read(run_id)),
    "run_info": lambda store, run_id: store.run_info(run_id),
    "delete_run": lambda store, run_id: store.delete_run(run_id),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_run_id_is_refused_everywhere(store: Store, name: str) -> None:
    for run_id in BAD_IDS:
        with pytest.raises(InvalidRunId):
            CALLS[name](store, run_id)
    assert store.list_runs() == []


def test_what_is_no_run_id_cannot_be_followed(store: Store) -> None:
    for run_id in BAD_IDS:
        with pytest.raises(InvalidRunId):
            list(store.follow(run_id, idle_timeout=0.01))  # type: ignore[arg-type] # what is refused
