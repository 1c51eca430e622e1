"""What every store knows of its runs: how they stand, how they are listed, and that a deleted one is gone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from runstream.model.errors import ConfigurationError
from runstream.model.events import EventKind
from runstream.model.results import RunInfo
from tests.support.backends import Backend, FileBackend, Store, info_of, latest
from tests.support.kinds import on_every_backend
from tests.support.samples import make_event, make_events, make_state


def test_what_is_known_of_a_run_follows_what_is_written(store: Store) -> None:
    store.save_event(make_event("r", 1))
    created = info_of(store)
    archived = created.archived_offset  # an archive has all that it has
    assert archived in (0, 1)
    assert created == RunInfo("r", "", "running", 1, archived, 1, created.created_at, created.updated_at)
    assert created.created_at == pytest.approx(created.updated_at)
    store.save_events([make_event("r", 2, session_id="s"), make_event("r", 3, session_id="later")])
    info = info_of(store)
    assert (info.session_id, info.last_offset, info.created_at) == ("s", 3, created.created_at)
    assert info.updated_at > created.updated_at


def test_a_run_may_begin_with_a_snapshot(store: Store) -> None:
    store.save_snapshot("r", make_state("r", session_id="s", status="paused"))
    info = info_of(store)
    assert (info.session_id, info.status, info.last_offset, info.first_hot) == ("s", "paused", 0, 1)
    assert store.list_runs() == ["r"]
    assert store.list_events("r") == []


def test_nothing_is_known_of_a_run_that_is_not_there(store: Store) -> None:
    assert store.run_info("nobody") is None
    assert store.list_runs() == []
    assert list(store.runs()) == []


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([EventKind.AGENT_PROGRESS], "running"),
        ([EventKind.RUN_STARTED], "running"),
        ([EventKind.RUN_FINISHED], "completed"),
        ([EventKind.RUN_ERROR], "failed"),
        ([EventKind.AGENT_FINISHED], "running"),
        ([EventKind.AGENT_ERROR], "running"),
        (["run.unheard-of"], "running"),
        ([EventKind.RUN_FINISHED, EventKind.TOOL_RESULT], "completed"),
        ([EventKind.RUN_FINISHED, EventKind.AGENT_ERROR], "completed"),
        ([EventKind.RUN_FINISHED, EventKind.RUN_STARTED], "running"),
        ([EventKind.RUN_ERROR, EventKind.RUN_FINISHED], "completed"),
    ],
    ids=lambda value: "+".join(map(str, value)) if isinstance(value, list) else value,
)
def test_the_last_word_of_its_events_is_the_status_of_a_run(
    store: Store, kinds: list[EventKind | str], status: str
) -> None:
    """``run.*`` opens and ends a run, ``agent.*`` never ends one, in one append or one by one."""
    store.save_events([make_event("at once", n, kind=kind) for n, kind in enumerate(kinds, 1)])
    for n, kind in enumerate(kinds, 1):
        store.save_event(make_event("one by one", n, kind=kind))
    assert [info_of(store, run_id).status for run_id in ("at once", "one by one")] == [status, status]


def test_a_snapshot_says_how_its_run_stands(store: Store) -> None:
    for status in ("pending", "running", "paused", "completed", "failed", "cancelled"):
        store.save_event(make_event("r", 1, kind=EventKind.RUN_ERROR))
        store.save_snapshot("r", make_state("r", status=status))
        assert info_of(store).status == status
        store.save_event(make_event("r", 2))
        assert info_of(store).status == status
        started = make_event("r", 3, kind=EventKind.RUN_STARTED)
        store.append("r", [started], snapshot=make_state("r", status=status))
        assert info_of(store).status == status


def test_a_snapshot_of_a_lane_does_not_end_the_run(store: Store) -> None:
    store.append("r", [make_event("r", 1)], snapshot=make_state("r", status="completed"), lane_id="main")
    assert info_of(store).status == "running"


def test_a_status_that_no_run_can_have_says_nothing(backend: Backend) -> None:
    store = backend.open(state_type=dict)
    store.save_event(make_event("r", 1, kind=EventKind.RUN_FINISHED))
    for status in ("unheard-of", 5, None):
        store.save_snapshot("r", {"status": status})
        assert info_of(store).status == "completed"


def write_some_runs(store: Store) -> list[RunInfo]:
    """Four runs in two sessions; what is known of them, newest first."""
    store.save_event(make_event("one", 1, session_id="s"))
    store.save_event(make_event("two", 1, session_id="t", kind=EventKind.RUN_FINISHED))
    store.save_event(make_event("three", 1, session_id="s", kind=EventKind.RUN_FINISHED))
    store.save_event(make_event("four", 1))
    store.save_event(make_event("one", 2))  # it names no session, and makes the run the newest
    return [info_of(store, run_id) for run_id in ("one", "four", "three", "two")]


@on_every_backend
def test_runs_are_listed_newest_first(store: Store) -> None:
    infos = write_some_runs(store)
    assert list(store.runs()) == infos
    assert store.list_runs() == ["one", "four", "three", "two"]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"session_id": "s"}, ["one", "three"]),
        ({"session_id": "nobody's"}, []),
        ({"session_id": ""}, ["four"]),
        ({"status": "completed"}, ["three", "two"]),
        ({"status": "completed", "session_id": "s"}, ["three"]),
        ({"limit": 2}, ["one", "four"]),
        ({"limit": 0}, []),
        ({"limit": 1, "status": "completed"}, ["three"]),
        ({"updated_after": 0.0}, ["one", "four", "three", "two"]),
        ({"updated_after": math.inf}, []),
    ],
    ids=str,
)
def test_runs_are_filtered(store: Store, wanted: dict[str, Any], expected: list[str]) -> None:
    write_some_runs(store)
    assert [info.run_id for info in store.runs(**wanted)] == expected


def test_runs_updated_after_a_time_are_newer_than_that(store: Store) -> None:
    infos = write_some_runs(store)
    for index, info in enumerate(infos):
        assert list(store.runs(updated_after=info.updated_at)) == infos[:index]
    assert list(store.runs(session_id="s", updated_after=infos[2].updated_at)) == infos[:1]


def test_a_negative_number_of_runs_is_refused(store: Store) -> None:
    write_some_runs(store)
    with pytest.raises(ConfigurationError, match="limit=-1"):
        list(store.runs(limit=-1))


@pytest.mark.one_in(2)
def test_many_runs_are_listed_whole(store: Store) -> None:
    run_ids = [f"r{n}" for n in range(230)]
    store.save_events([make_event(run_id, session_id="s") for run_id in run_ids])
    assert sorted(store.list_runs()) == sorted(run_ids)
    assert sorted(info.run_id for info in store.runs(session_id="s")) == sorted(run_ids)
    assert len(list(store.runs(limit=210))) == 210


@pytest.mark.one_in(2)
def test_runs_that_go_on_while_they_are_listed_come_once(store: Store) -> None:
    run_ids = [f"r{n}" for n in range(130)]
    for run_id in run_ids:
        store.save_event(make_event(run_id, 1))
    listed = store.runs()
    first = next(listed)
    store.save_events([make_event("r0", 2), make_event(first.run_id, 2)])  # the oldest, and one that was given
    rest = [info.run_id for info in listed]
    assert first.run_id == "r129"
    assert sorted([first.run_id, *rest]) == sorted(run_ids)
    assert [run_id for run_id in rest if run_id != "r0"] == run_ids[128:0:-1]


@on_every_backend
def test_a_few_of_many_runs_are_the_newest_ones(store: Store) -> None:
    for number in range(60):
        store.save_event(make_event(f"r{number}", 1))
    assert [info.run_id for info in store.runs(limit=5)] == [f"r{number}" for number in range(59, 54, -1)]


# -- delete ----------------------------------------------------------------------------------------------


@on_every_backend
def test_a_deleted_run_leaves_nothing(backend: Backend, store: Store) -> None:
    store.save_event(make_event("kept", session_id="s"))
    before = backend.footprint()
    store.save_events(make_events("r", 3, session_id="s"))
    store.append("r", [make_event("r", 4, lane_id="b")], snapshot=make_state("r"))
    store.save_snapshot("r", make_state("r"), lane_id="b")
    assert store.delete_run("r") is True
    assert store.delete_run("r") is False
    assert store.run_info("r") is None
    assert store.list_runs() == ["kept"]
    assert store.list_events("r") == []
    assert store.load_latest("r") is None
    assert store.load_snapshot("r", lane_id="b") is None
    assert backend.footprint() == before


def test_a_run_that_is_created_again_begins_at_offset_one(store: Store) -> None:
    store.append("r", make_events("r", 3), snapshot=make_state("r"))
    store.delete_run("r")
    assert store.append("r", make_events("r", 2), expected_offset=0, snapshot=make_state("r", purpose="new"))[
        :2
    ] == (1, 2)
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.state.purpose, snapshot.offset, snapshot.revision) == ("new", 2, 1)


def test_a_writer_that_knew_a_deleted_run_goes_on_in_a_new_one(two_stores: tuple[Store, Store]) -> None:
    """It sends its next snapshot whole, not as a difference from one that is gone."""
    store, other = two_stores
    store.append("r", make_events("r", 3), snapshot=make_state("r", data={"a": 1, "b": 2}))
    assert other.delete_run("r")
    store.save_snapshot("r", make_state("r", data={"a": 1, "b": 3}))
    assert latest(other, "r").data == {"a": 1, "b": 3}
    assert store.append("r", make_events("r", 1))[:2] == (1, 1)


def test_deleting_what_is_not_there_says_so(store: Store) -> None:
    assert store.delete_run("nobody") is False
    assert store.list_runs() == []


def test_a_store_that_did_not_write_a_run_deletes_it_too(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    store.append("r", make_events("r", 1, session_id="s"), snapshot=make_state("r"), lane_id="main")
    assert other.delete_run("r") is True
    assert store.list_runs() == []
    assert store.load_snapshot("r", lane_id="main") is None


# -- reads create nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", ["r", "nobody"])
def test_reads_create_and_change_nothing(backend: Backend, store: Store, run_id: str) -> None:
    store.append("r", make_events("r", 2, session_id="s"), snapshot=make_state("r"))
    before = backend.footprint()
    names = list(backend.files()) if isinstance(backend, FileBackend) else []
    store.load_latest(run_id)
    store.load_snapshot(run_id, lane_id="main")
    store.list_events(run_id)
    list(store.read(run_id, reverse=True))
    store.recover(run_id)
    store.recover(run_id, lane_id="main")
    store.run_info(run_id)
    list(store.runs(session_id="s"))
    store.list_runs()
    store.append(run_id, [])
    assert backend.footprint() == before
    if isinstance(backend, FileBackend):
        assert list(backend.files()) == names
