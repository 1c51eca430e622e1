"""Tags, on every store: what an append changes of them, what is refused, and the runs that are found by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from runstream import ConfigurationError, EncodingError, LeaseHeld, LeaseLost
from tests.support.backends import Store, info_of
from tests.support.kinds import BACKENDS, short
from tests.support.samples import make_event, make_events, make_state


def tags_of(store: Store, run_id: str = "r") -> Mapping[str, str]:
    return info_of(store, run_id).tags


def found(store: Store, **query: Any) -> list[str]:
    return [info.run_id for info in store.runs(**query)]


def pages(store: Store, between: Callable[[int], None] = lambda _: None, **query: Any) -> list[str]:
    """All runs that are given, page by page."""
    given: list[str] = []
    page = ""
    while infos := list(store.runs(page=page, **query)):
        given += [info.run_id for info in infos]
        page = infos[-1].page
        between(len(given))
    return given


def test_tags_come_with_all_that_an_append_may_have(store: Store) -> None:
    """Each part is found where it is, whatever else is there."""
    store.save_snapshot("r", make_state("r", session_id="s"))
    events = [make_event("r", 1, lane_id="a"), make_event("r", 2, lane_id="b")]
    store.append(
        "r",
        events,
        keys=["1", "2"],
        end_lanes=["a"],
        snapshot=make_state("r"),
        lane_id="b",
        tags={"x": "1", "y": "a"},
    )
    store.append("r", [], end_lanes=["b"], tags={"x": None, "z": "b"})
    assert tags_of(store) == {"y": "a", "z": "b"}
    assert [(lane.lane_id, lane.ended) for lane in store.lanes("r")] == [("a", True), ("b", True)]
    assert [info.run_id for info in store.runs(session_id="s", tags={"z": "b"})] == ["r"]


def test_an_append_sets_changes_and_removes_tags(store: Store) -> None:
    assert store.append("r", [], tags={"user": "42", "env": ""}).last_offset == 0
    assert tags_of(store) == {"user": "42", "env": ""}
    placed = store.append("r", make_events("r", 2), tags={"user": "43", "model": "m"}, snapshot=make_state("r"))
    assert (placed.first_offset, placed.last_offset) == (1, 2)
    assert tags_of(store) == {"user": "43", "env": "", "model": "m"}
    store.append("r", [make_event("r", 3)])
    store.append("r", [], tags={"env": None, "never": None})
    assert tags_of(store) == {"user": "43", "model": "m"}
    assert [info.tags for info in store.runs()] == [{"user": "43", "model": "m"}]
    store.append("r", [], tags={"user": None, "model": None})
    assert tags_of(store) == {}
    assert [event.seq for event in store.list_events("r")] == [1, 2, 3]


def test_two_writers_change_tags_of_one_run(two_stores: tuple[Store, Store]) -> None:
    one, other = two_stores
    one.append("r", [make_event("r", 1)], tags={"a": "1", "b": "1"})
    other.append("r", [], tags={"b": "2", "c": "2"})
    one.append("r", [], tags={"c": None})
    assert tags_of(one) == tags_of(other) == {"a": "1", "b": "2"}
    assert found(other, tags={"b": "2"}) == ["r"]


def test_runs_are_found_by_all_of_their_tags(store: Store) -> None:
    values = {"a": "1", "b": "11", "c": "", "d": "1é:1", "e": "1"}
    for run_id, value in values.items():
        store.append(run_id, [make_event(run_id, 1)], tags={"t": value, "u": "x" if run_id < "d" else "y"})
    store.append("f", [make_event("f", 1)])
    for run_id, value in values.items():
        assert set(found(store, tags={"t": value})) == {one for one, has in values.items() if has == value}, run_id
    assert found(store, tags={"t": "1", "u": "y"}) == ["e"]
    assert found(store, tags={"t": "1"}, limit=1) == ["e"]
    assert found(store, tags={"t": "2"}) == found(store, tags={"never": ""}) == []
    assert found(store, tags={}) == ["f", "e", "d", "c", "b", "a"]
    store.append("a", [], tags={"t": "2"})
    store.append("e", [], tags={"u": None})
    assert (found(store, tags={"t": "1"}), found(store, tags={"u": "y"})) == (["e"], ["d"])
    store.delete_run("e")
    assert (found(store, tags={"t": "1"}), found(store, tags={"t": "2"})) == ([], ["a"])
    store.append("e", [make_event("e", 1)])
    assert (tags_of(store, "e"), found(store, tags={"t": "1"})) == ({}, [])


def test_runs_are_found_by_tag_session_status_and_time_together(store: Store) -> None:
    for number in range(6):
        run_id = f"r{number}"
        store.append(run_id, [make_event(run_id, 1, session_id="s" if number % 2 else "")], tags={"t": "1"})
        if number > 2:
            store.save_snapshot(run_id, make_state(run_id, status="completed"))
    infos = {info.run_id: info for info in store.runs()}
    assert found(store, tags={"t": "1"}, session_id="s", status="completed") == ["r5", "r3"]
    assert found(store, tags={"t": "1"}, created_after=infos["r3"].created_at) == ["r5", "r4"]
    assert found(store, updated_before=infos["r2"].updated_at) == ["r1", "r0"]
    assert found(store, updated_after=infos["r2"].updated_at, updated_before=infos["r5"].updated_at) == [
        "r4",
        "r3",
    ]


def test_pages_give_each_run_that_was_there_once_whatever_is_written_meanwhile(store: Store) -> None:
    names = [f"r{number}" for number in (3, 1, 4, 5, 9, 2, 6)]
    for run_id in names:
        store.append(run_id, [make_event(run_id, 1)], tags={"t": "1"})

    def interfere(count: int) -> None:
        store.append(names[count % 7], [make_event(names[count % 7], 2)])
        store.append(names[-count], [], tags={"other": str(count)})
        store.append(f"new{count}", [make_event(f"new{count}", 1)])

    for limit in (1, 3, 7, None):
        assert pages(store, interfere, limit=limit, tags={"t": "1"}) == names
        assert [one for one in pages(store, limit=limit) if one in names] == names
    assert pages(store, limit=2, tags={"t": "2"}) == []


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ({"": "x"}, EncodingError),
        ({"n" * 257: "x"}, EncodingError),
        ({"é" * 129: "x"}, EncodingError),
        ({"n": "v" * 257}, EncodingError),
        ({"n": "\ud800"}, EncodingError),
        ({"n": 1}, EncodingError),
        ({1: "v"}, EncodingError),
        ({str(n): "" for n in range(10_001)}, EncodingError),
        ("n", ConfigurationError),
        (["n"], ConfigurationError),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_what_is_no_tag_is_refused_and_nothing_is_written(tags: Any, error: type[Exception], store: Store) -> None:
    for events in ([], make_events("r", 1)):
        with pytest.raises(error, match="tag"):
            store.append("r", events, tags=tags)
    with pytest.raises(error, match="tag"):
        store.open_run("r", tags=tags)
    assert store.run_info("r") is None


@pytest.mark.parametrize(
    "query",
    [{"tags": {"n": None}}, {"tags": "n"}, {"page": "x"}, {"page": 3}, {"page": "1.0:"}, {"created_after": "1"}],
)
def test_what_no_run_can_have_is_not_asked_for(query: Any, store: Store) -> None:
    with pytest.raises((ConfigurationError, EncodingError)):
        list(store.runs(**query))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("backend", short(kind for kind in BACKENDS if "fake" not in kind), indirect=True)
def test_a_run_has_at_most_ten_thousand_tags(store: Store) -> None:
    first, second = ({f"{half}{n}": "v" for n in range(5000)} for half in "ab")
    store.append("r", [], tags=first)
    store.append("r", [make_event("r", 1)], tags=second)
    with pytest.raises(EncodingError, match="10001 tags"):
        store.append("r", [make_event("r", 2)], tags={"c": "v"})
    store.append("r", [], tags={"a0": None, "c": "w" * 256})
    tags = tags_of(store)
    assert (len(tags), tags["c"], info_of(store).last_offset) == (10_000, "w" * 256, 1)
    assert found(store, tags={"a0": "v"}) == []
    assert found(store, tags={"b4999": "v"}) == ["r"]


def test_an_append_of_known_keys_alone_changes_no_tags(store: Store) -> None:
    store.append("r", [make_event("r", 1)], keys=["k"], tags={"n": "1"})
    store.append("r", [make_event("r", 1)], keys=["k"], tags={"n": "2"})
    assert tags_of(store) == {"n": "1"}


def test_a_run_is_opened_with_tags(store: Store) -> None:
    with store.open_run("r", tags={"user": "42"}) as run:
        assert tags_of(store) == {"user": "42"}
        run.emit("agent.progress")
    with store.open_run("r", tags={"user": None, "again": ""}):
        assert tags_of(store) == {"again": ""}
    assert info_of(store).last_offset == 1


def test_tags_are_written_under_the_lease_as_all_is(live: Store) -> None:
    lease = live.lease("r", owner="a", ttl=30)
    with pytest.raises(LeaseHeld):
        live.append("r", [], tags={"n": "1"})
    lease.append("r", [], tags={"n": "1"})
    with lease:
        live.append("r", [], lease=lease, tags={"m": "2"})
    with pytest.raises(LeaseLost):
        live.append("r", [], lease=lease, tags={"n": "3"})
    assert tags_of(live) == {"n": "1", "m": "2"}
