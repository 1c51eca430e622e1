"""Lanes of every store: listed, ended, and opened again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import RedisCheckpointer, SQLiteCheckpointer, connect
from runstream.model.archive_records import RunBatch
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    EncodingError,
    LeaseHeld,
    StoreUnavailable,
)
from runstream.model.results import LaneInfo
from runstream.stores.capabilities import archive_of
from tests.support.backends import RedisBackend, Store, info_of
from tests.support.kinds import REAL, on_every_backend
from tests.support.line import Line
from tests.support.samples import make_event, make_state

LEASED = ["memory", "sqlite", "fake", *REAL[:1]]


def event(lane_id: str, seq: int = 1) -> Any:
    return make_event("r", seq, lane_id=lane_id)


def ended(store: Store, run_id: str = "r") -> list[str]:
    return [lane.lane_id for lane in store.lanes(run_id) if lane.ended]


@on_every_backend
def test_lanes_are_listed_by_name(store: Store) -> None:
    """Those that have events, and those that have a snapshot."""
    assert store.lanes("r") == []
    store.append("r", [event("b", 7), event("a", 3), event("b", 2)], end_lanes=["a"])
    store.append("r", (), snapshot=make_state("r"), lane_id="state")
    store.append("r", (), snapshot=make_state("r"), lane_id="b")
    store.save_event(event("ü" * 200, 2**53))
    assert store.lanes("r") == [
        LaneInfo("a", 2, 3, None, ended=True),
        LaneInfo("b", 3, 2, 3, ended=False),
        LaneInfo("state", 0, 0, 3, ended=False),
        LaneInfo("ü" * 200, 4, 2**53, None, ended=False),
    ]


@pytest.mark.parametrize("backend", LEASED, indirect=True)
def test_who_holds_a_lane_is_told(store: Store) -> None:
    store.save_events([event("a"), event("b")])
    with store.lease("r", owner="worker 7", lane_id="a"):
        assert [lane.lease for lane in store.lanes("r")] == ["worker 7", None]
    assert [lane.lease for lane in store.lanes("r")] == [None, None]


@on_every_backend
def test_what_comes_to_a_lane_opens_it_again(store: Store) -> None:
    """Its events, by whatever path they come, and a state of it; and nothing else does."""
    states: dict[str | None, Any] = {lane: make_state("r") for lane in "abc"}
    store.append("r", [event(lane) for lane in "abcd"], snapshots=states)
    store.append("r", (), end_lanes=["a", "b", "c", "d", "a"])
    assert ended(store) == ["a", "b", "c", "d"]
    store.save_snapshot("r", make_state("r"))
    store.save_event(event("other"))
    assert ended(store) == ["a", "b", "c", "d"]
    store.save_event(event("a", 2))
    store.save_snapshot("r", make_state("r"), lane_id="b")
    store.append("r", [event("d", 2)])
    assert ended(store) == ["c"]
    store.append("r", [event("c", 2)], end_lanes=["a", "b"])
    assert ended(store) == ["a", "b"]


def test_a_lane_that_is_not_there_cannot_end(store: Store) -> None:
    """Nothing is noted of it, and no run begins by that."""
    appended = store.append("r", (), end_lanes=["nobody"])
    assert (appended.first_offset, appended.last_offset) == (1, 0)
    assert store.run_info("r") is None
    with pytest.raises(ConcurrencyConflict):
        store.append("r", (), expected_offset=1, end_lanes=["nobody"])
    store.save_event(event("a"))
    store.append("r", (), end_lanes=["nobody"])
    assert [lane.lane_id for lane in store.lanes("r")] == ["a"]
    assert store.append("r", (), expected_offset=1, end_lanes=["a"]).last_offset == 1
    assert ended(store) == ["a"]


@on_every_backend
def test_a_fork_has_the_ends_of_lanes_as_they_were_when_it_was_made(store: Store) -> None:
    """Whatever comes to the lanes in its parent since, be it at the same offset."""
    states: dict[str | None, Any] = {"a": make_state("r"), "b": make_state("r")}
    store.append("r", [event(lane) for lane in "abcd"], snapshots=states, end_lanes=["a", "c"])
    store.fork("r", "f")
    store.append("r", (), end_lanes=["b", "d"])
    assert (ended(store, "r"), ended(store, "f")) == (["a", "b", "c", "d"], ["a", "c"])
    store.append("r", [event("a", 2)], end_lanes=["a"])
    store.append("r", [event("c", 2)])
    assert (ended(store, "r"), ended(store, "f")) == (["a", "b", "d"], ["a", "c"])
    store.fork("r", "g", at=4)
    assert ended(store, "g") == ["b", "c", "d"]  # of the lane that was ended twice, the last end counts


@on_every_backend
def test_a_lane_of_what_a_fork_shares_is_ended_in_the_fork_alone(store: Store) -> None:
    """Until something comes to it there; a fork of the fork has it ended."""
    store.append("r", [event("a"), event("b")])
    store.fork("r", "f")
    store.append("f", (), end_lanes=["a", "nobody"])
    store.fork("f", "g")
    assert [ended(store, run_id) for run_id in "rfg"] == [[], ["a"], ["a"]]
    assert [lane.lane_id for lane in store.lanes("f")] == ["a", "b"]
    store.append("f", [make_event("f", 2, lane_id="a")])
    with store.open_run("g", lane_id="b") as run:
        run.emit("tool.result")
        run.finish_lane()
    assert [ended(store, run_id) for run_id in "rfg"] == [[], [], ["a", "b"]]
    assert store.delete_run("r", detach=True)
    assert ended(store, "g") == ["a", "b"]
    assert [item.offset for item in store.recover("g", lane_id="a").events] == [1]


def test_an_append_of_known_keys_ends_nothing(store: Store) -> None:
    store.append("r", [event("a")], keys=["k"])
    store.append("r", [event("a")], keys=["k"], end_lanes=["a"])
    assert ended(store) == []
    store.append("r", [event("a"), event("a", 2)], keys=["k", None], end_lanes=["a"])
    assert ended(store) == ["a"]


def test_what_is_no_list_of_lanes_is_refused(store: Store) -> None:
    wrong: list[Any] = ["a", b"a", [5], [None], ["x" * 513], 5, [["a"]], iter(["a"])]
    for lanes in wrong:
        with pytest.raises(EncodingError):
            store.append("r", [event("a")], end_lanes=lanes)
    assert store.run_info("r") is None


@pytest.mark.parametrize("backend", LEASED, indirect=True)
def test_a_lane_ends_only_under_its_own_lease(store: Store) -> None:
    store.save_events([event("a"), event("b")])
    with store.lease("r", owner="me", lane_id="a") as mine:
        with pytest.raises(LeaseHeld, match="'me'"):
            store.append("r", [event("b", 2)], end_lanes=["b", "a"])
        assert (ended(store), info_of(store).last_offset) == ([], 2)
        mine.append("r", (), end_lanes=["a", "b"])
    assert ended(store) == ["a", "b"]
    with store.lease("r", owner="me"), pytest.raises(LeaseHeld):
        store.append("r", (), end_lanes=["a"])


@on_every_backend
def test_a_run_finishes_its_lane_and_not_the_run(store: Store) -> None:
    with store.open_run("r", lane_id="side") as run:
        run.emit("tool.result", n=1)
        run.state.purpose = "done"
        run.finish_lane()
    with store.open_run("r") as main, pytest.raises(ConfigurationError, match="finish"):
        main.finish_lane()
    (lane,) = store.lanes("r")
    assert (lane.ended, lane.snapshot_offset, info_of(store).status) == (True, 1, "running")
    with store.open_run("r", lane_id="side") as run:
        assert run.state.purpose == "done"
        run.emit("tool.result", n=2)
        assert ended(store) == []
        run.finish_lane()
    assert [(lane.ended, lane.last_seq) for lane in store.lanes("r")] == [(True, 2)]


@pytest.mark.parametrize("redis_backend", ["fake", *REAL[:1]], indirect=True)
@pytest.mark.parametrize("lost_part", ["request", "reply"])
def test_an_end_that_is_sent_again_is_made_once(redis_backend: RedisBackend, lost_part: str) -> None:
    """What came to the lane between the two is not ended by it."""
    store = redis_backend.open(retry_seconds=0)
    assert isinstance(store, RedisCheckpointer)
    line = Line(store)
    for events in ([event("a")], []):
        store.save_event(event("a"))
        line.cut(lost_part)
        with pytest.raises(StoreUnavailable):
            store.append("r", events, end_lanes=["a"])
        if lost_part == "reply":
            redis_backend.open().save_event(event("a", 9))
        store.append("r", events, end_lanes=["a"])
        assert ended(store) == ([] if lost_part == "reply" else ["a"])


def test_a_damaged_end_is_told(tmp_path: Path) -> None:
    """The events and states of its lane are not affected."""
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as store:
        store.append("r", [event("a"), event("b")], snapshots={"a": make_state("r")}, end_lanes=["a", "b"])
        assert store.check_integrity() == []
        with closing(sqlite3.connect(tmp_path / "a.db")) as raw, raw:
            raw.execute("UPDATE ended_lanes SET token = 'x' WHERE lane_id = 'b'")
        (problem,) = store.check_integrity()
        assert "'b'" in problem
        with pytest.raises(CorruptRecordError, match="'b'"):
            store.lanes("r")
        assert len(store.recover("r", lane_id="b").events) == 1
        store.append("r", (), end_lanes=["b"])
        assert (ended(store), store.check_integrity()) == (["a", "b"], [])


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_an_end_that_comes_late_does_not_replace_a_later_one(kind: str, tmp_path: Path) -> None:
    """As from a worker that was paused; the same one again changes nothing."""
    with connect(f"{kind}:{tmp_path}/a") as opened:
        store: Any = opened
        store.append("r", [event("a")], end_lanes=["a"])
        (first,) = archive_of(store).ended_lanes("r")
        store.append("r", [event("a", 2)], end_lanes=["a"])
        (second,) = archive_of(store).ended_lanes("r")
        header, position = archive_of(store).header("r"), store.position("r")
        assert header is not None
        for end in (first, second, first, second):
            store.write([RunBatch(header, position.cursor, ended=[end])])
            assert archive_of(store).ended_lanes("r") == [second]
            assert ended(store) == ["a"]
