"""How two runs differ: where they part, their events from there, and their states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    ConfigurationError,
    DrainWorker,
    EventsArchived,
    LaneDiff,
    RunDiff,
    TieredCheckpointer,
)
from runstream.codec.archive_entries import renamed
from runstream.history.archived import ArchivedHistory
from runstream.model.archive_records import RunBatch
from runstream.model.results import Cursor
from runstream.repair.branches import keep_branch
from runstream.stores.capabilities import Archive as Sinks
from runstream.stores.capabilities import part_of
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend, Store
from tests.support.drain_tools import first_hot, open_hot
from tests.support.samples import make_event, make_events, make_state


def offsets(diff: RunDiff[Any]) -> dict[str, tuple[list[int], list[int]]]:
    """What each run has of each lane, by offset."""
    return {
        lane.lane_id: tuple([item.offset for item in side] for side in (lane.events, lane.other_events))  # type: ignore[misc]  # two
        for lane in diff.lanes
    }


def history_of(store: Archive, run_id: str) -> ArchivedHistory:
    archive = part_of(store, Sinks)
    assert archive is not None
    history = ArchivedHistory.load(archive, run_id)
    assert history is not None
    return history


def copy_of(archive: Archive, run_id: str, name: str, upto: int, parent: tuple[str, int] | None = None) -> None:
    """Give the archive another run with the history of one up to an offset, as a fork has it."""
    history = history_of(archive, run_id)
    entries = [renamed(entry, name) for entry in history.entries(0) if entry.offset <= upto]
    header = replace(history.header, run_id=name, parent=parent)
    archive.write([RunBatch(header, header.start, entries)])


def test_runs_that_share_nothing_part_at_their_beginning(store: Store) -> None:
    store.append("a", [*make_events("a", 2), make_event("a", 1, lane_id="x")])
    store.append("b", [make_event("b", 1, lane_id="y"), *make_events("b", 3)])
    diff = store.diff("a", "b")
    assert (diff.run_id, diff.other_run_id, diff.shared_offset, diff.state) == ("a", "b", 0, [])
    assert offsets(diff) == {"main": ([1, 2], [2, 3, 4]), "x": ([3], []), "y": ([], [1])}
    lane = diff.lanes[0]
    assert isinstance(lane, LaneDiff)
    assert [*lane.events, *lane.other_events] == [*list(store.read("a"))[:2], *list(store.read("b"))[1:]]


def test_a_run_does_not_differ_from_itself(store: Store) -> None:
    store.append("a", make_events("a", 5), snapshot=make_state("a"))
    assert store.diff("a", "a") == RunDiff("a", "a", 5, [], [])


def test_states_differ_by_path_and_of_each_lane(store: Store) -> None:
    data: dict[str, Any]
    for run_id, data, step in (("a", {"plan": ["x", "y"]}, 8), ("b", {"plan": ["x"], "n": 1}, 9)):
        state = make_state(run_id, data=data, started_at=1.0, updated_at=1.0)
        store.append(run_id, make_events(run_id, 1), snapshot=state)
        of_lane = replace(state, data={}, current_step=step)
        store.append(run_id, [make_event(run_id, 1, lane_id="x")], snapshot=of_lane, lane_id="x")
    diff = store.diff("a", "b")
    assert [(one.path, one.what, one.old, one.new) for one in diff.state] == [
        ("data.plan[1]", "removed", "y", None),
        ("data.n", "added", None, 1),
    ]
    states = {lane.lane_id: [(one.path, one.old, one.new) for one in lane.state] for lane in diff.lanes}
    assert states == {"main": [], "x": [("current_step", 8, 9)]}


def test_a_run_that_is_not_there_cannot_be_compared(store: Store) -> None:
    store.append("a", make_events("a", 1))
    for pair in (("a", "b"), ("b", "a")):
        with pytest.raises(ConfigurationError, match="no run 'b'"):
            store.diff(*pair)


def test_who_compares_has_not_loaded_a_state_to_go_on_from(two_stores: tuple[Store, Store]) -> None:
    ours, theirs = two_stores
    ours.append("a", make_events("a", 1), snapshot=make_state("a"))
    theirs.append("b", make_events("b", 1))
    theirs.load_snapshot("a")
    theirs.append("a", make_events("a", 1, first=2), snapshot=make_state("a", current_step=2))
    ours.diff("a", "b")
    with pytest.raises(ConcurrencyConflict):
        ours.append("a", (), snapshot=make_state("a", current_step=3))


@pytest.fixture(params=[0, 1], ids=["sqlite", "jsonl"])
def archive(request: pytest.FixtureRequest, archives: list[Archive]) -> Any:
    return archives[request.param]


def test_runs_of_one_history_part_after_the_last_event_that_both_have(archive: Any) -> None:
    """Wherever that is; found by their cursors, though the same events follow there."""
    archive.append("a", make_events("a", 9))
    for upto in (1, 5, 8, 9):
        name = f"fork-{upto}"
        copy_of(archive, "a", name, upto)
        for more in (0, 3):
            archive.append(name, make_events(name, more, first=archive.run_info(name).last_offset + 1))
            last = archive.run_info(name).last_offset
            diff = archive.diff("a", name)
            assert diff.shared_offset == upto
            own = (list(range(upto + 1, 10)), list(range(upto + 1, last + 1)))
            assert offsets(diff) == ({} if own == ([], []) else {"main": own})


def test_a_branch_parts_where_the_two_histories_do(archive: Any) -> None:
    """It has none of what it shares."""
    archive.append("a", make_events("a", 6), snapshot=make_state("a", current_step=6))
    history = history_of(archive, "a")
    start = history.at(4)
    assert isinstance(start, Cursor)
    name = keep_branch([archive], history, start)
    archive.append(name, make_events(name, 1, first=7))
    diff = archive.diff("a", name)
    assert diff.shared_offset == 6  # nothing more is known to differ
    assert offsets(diff) == {"main": ([], [7])}
    archive.append("a", make_events("a", 1, first=7))
    assert offsets(archive.diff(name, "a")) == {"main": ([7], [7])}


def test_a_parent_that_was_made_anew_shares_nothing(archive: Any) -> None:
    archive.append("a", make_events("a", 6))
    copy_of(archive, "a", "fork", 4, parent=("a", 4))
    copy_of(archive, "a", "other", 5, parent=("a", 5))
    assert archive.diff("a", "fork").shared_offset == 4
    assert archive.diff("other", "fork").shared_offset == 4
    archive.delete_run("a")
    archive.append("a", make_events("a", 6))
    assert archive.diff("a", "fork").shared_offset == 0
    assert archive.diff("fork", "a").shared_offset == 0
    assert archive.diff("other", "fork").shared_offset == 4


def test_what_has_left_redis_is_compared_in_the_archive(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    hot = open_hot(redis_backend)
    for run_id in ("a", "b"):
        hot.append(run_id, make_events(run_id, 5))
    DrainWorker(hot, archives, trim="archived").drain_once()
    for run_id in ("a", "b"):
        hot.append(run_id, make_events(run_id, 2, first=6))
    assert first_hot(hot, "a") == 6
    with pytest.raises(EventsArchived):
        hot.diff("a", "b")
    for archive in archives:
        diff = TieredCheckpointer(hot, archive).diff("a", "b")
        assert offsets(diff) == {"main": (list(range(1, 8)), list(range(1, 8)))}
    assert hot.diff("a", "a").shared_offset == 7
