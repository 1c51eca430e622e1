"""What every store does with runs and what names them, with values of every type, and with bad input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import EventKind as TheirKind
from purpose_agent.runtime import PAEvent as TheirEvent
from purpose_agent.runtime import RunState as TheirState
from purpose_agent.runtime import RunStatus as TheirStatus

from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    EncodingError,
    InvalidRunId,
    PayloadTooLarge,
    RunstreamError,
)
from runstream.model.events import EventKind, PAEvent, Visibility
from runstream.model.results import RunInfo
from tests.support.backends import Backend, FileBackend, Store, latest
from tests.support.samples import RICH_VALUES, make_event, make_events, make_state, same


def info_of(store: Store, run_id: str = "r") -> RunInfo:
    info = store.run_info(run_id)
    assert info is not None
    return info


# -- what is known of runs -------------------------------------------------------------------------------


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


def test_runs_are_listed_newest_first(store: Store) -> None:
    infos = write_some_runs(store)
    assert list(store.runs()) == infos
    assert store.list_runs() == ["one", "four", "three", "two"]


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


def test_many_runs_are_listed_whole(store: Store) -> None:
    run_ids = [f"r{n}" for n in range(230)]
    store.save_events([make_event(run_id, session_id="s") for run_id in run_ids])
    assert sorted(store.list_runs()) == sorted(run_ids)
    assert sorted(info.run_id for info in store.runs(session_id="s")) == sorted(run_ids)
    assert len(list(store.runs(limit=210))) == 210


# -- delete ----------------------------------------------------------------------------------------------


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


# -- hostile run ids -------------------------------------------------------------------------------------

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


# -- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RICH_VALUES)
def test_every_type_of_value_comes_back_in_payloads_and_states(store: Store, name: str) -> None:
    value = RICH_VALUES[name]
    payload = {name: value, "in a list": [value], "in a tuple": (value,)}
    state = make_state("r", data=payload, metadata={"deep": {"deeper": value}})
    store.append("r", [make_event("r", payload=payload)], snapshot=state)
    ((recorded,), loaded) = list(store.read("r")), latest(store, "r")
    assert same(recorded.event.payload, payload)
    assert same(loaded.data, payload)
    assert same(loaded.metadata, state.metadata)


def test_all_types_of_values_come_back_from_another_store(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    store.append("r", [make_event("r", payload=RICH_VALUES)], snapshot=make_state("r", data=RICH_VALUES))
    assert same(other.list_events("r")[0].payload, RICH_VALUES)
    assert same(latest(other, "r").data, RICH_VALUES)


def test_a_value_that_is_not_listed_becomes_plain_data(store: Store) -> None:
    store.save_event(
        make_event("r", payload={"kind": EventKind.TOOL_ARGS, "path": Path("/x"), "error": ValueError("no")})
    )
    (loaded,) = store.list_events("r")
    assert same(
        loaded.payload, {"kind": "tool.args", "path": "/x", "error": {"type": "ValueError", "message": "no"}}
    )


def test_a_strict_store_refuses_what_is_not_listed(backend: Backend) -> None:
    store = backend.open(fallback=None)
    for value in (Path("/x"), ValueError("no"), object(), Visibility):
        with pytest.raises(EncodingError) as caught:
            store.save_event(make_event("r", payload={"deep": [value]}))
        assert caught.value.path == "payload.deep[0]"
    assert store.list_runs() == []


def test_a_store_may_keep_the_text_of_what_it_does_not_know(backend: Backend) -> None:
    store = backend.open(fallback=str)
    store.save_event(make_event("r", payload={"what": complex(1, 2)}))
    assert store.list_events("r")[0].payload == {"what": "(1+2j)"}


# -- events of other classes -----------------------------------------------------------------------------


class TheirOwnEvent:
    """An event class of somebody else's, with fields that a PAEvent has not."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = dict(fields)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None

    def to_dict(self) -> dict[str, Any]:
        return self.fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TheirOwnEvent:
        return cls(fields)


def test_further_fields_of_an_event_survive(backend: Backend) -> None:
    fields = {**make_event("r", 3).to_dict(), "cost": 0.25, "tags": ("a", b"b"), "none": None}
    store = backend.open(event_type=TheirOwnEvent)
    store.save_events([TheirOwnEvent(fields)])
    (loaded,) = store.list_events("r")
    assert type(loaded) is TheirOwnEvent
    assert loaded.fields.keys() == fields.keys()
    assert all(same(loaded.fields[name], fields[name]) for name in fields)
    assert store.list_events("r", 2) != []
    assert store.list_events("r", 3) == []
    assert [item.event.cost for item in store.read("r")] == [0.25]


@pytest.mark.parametrize("name", ["$mark", 5], ids=str)
def test_a_further_field_with_a_reserved_or_no_name_is_refused(backend: Backend, name: Any) -> None:
    store = backend.open(event_type=TheirOwnEvent)
    with pytest.raises(EncodingError):
        store.save_event(TheirOwnEvent({**make_event("r").to_dict(), name: 1}))
    assert store.list_runs() == []


def test_purpose_agents_own_events_and_states_go_through(backend: Backend) -> None:
    store = backend.open(event_type=TheirEvent, state_type=TheirState)
    events = [
        TheirEvent("r", seq=n, kind=kind, payload={"n": n})
        for n, kind in enumerate((TheirKind.RUN_STARTED, TheirKind.TOOL_RESULT, TheirKind.RUN_FINISHED))
    ]
    state = TheirState("r", session_id="s", status=TheirStatus.COMPLETED, data={"a": [1]})
    state.mark_node_started("node")
    store.append("r", events, snapshot=state)
    loaded = latest(store, "r")
    assert store.list_events("r") == events
    assert type(store.list_events("r")[0]) is TheirEvent
    assert loaded.to_dict() == state.to_dict()
    assert type(loaded) is TheirState
    assert info_of(store).status == "completed"


def test_either_librarys_events_are_read_as_the_others(two_stores: tuple[Store, Store]) -> None:
    store, _ = two_stores
    theirs = TheirEvent("r", seq=1, kind=TheirKind.TOOL_RESULT, payload={"n": 1})
    store.save_event(theirs)
    (ours,) = store.list_events("r")
    assert type(ours) is PAEvent
    assert ours.to_dict() == theirs.to_dict()


def test_an_event_that_its_class_refuses_is_reported_and_its_neighbours_are_not(backend: Backend) -> None:
    """purpose-agent's own class knows no other kinds than its own."""
    store = backend.open(event_type=TheirEvent)
    store.save_events([make_event("r", 1), make_event("r", 2, kind="my.kind"), make_event("r", 3)])
    with pytest.raises(CorruptRecordError) as caught:
        list(store.read("r"))
    assert (caught.value.run_id, caught.value.offset) == ("r", 2)
    assert [item.offset for item in store.read("r", on_corrupt="skip")] == [1, 3]
    assert [item.offset for item in store.read("r", on_corrupt="skip", limit=2)] == [1, 3]
    assert [item.offset for item in store.read("r", on_corrupt="skip", reverse=True)] == [3, 1]


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


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_run_id_is_refused_everywhere(store: Store, name: str) -> None:
    for run_id in BAD_IDS:
        with pytest.raises(InvalidRunId):
            CALLS[name](store, run_id)
    assert store.list_runs() == []


def test_what_is_no_run_id_cannot_be_followed(live: Store) -> None:
    for run_id in BAD_IDS:
        with pytest.raises(InvalidRunId):
            list(live.follow(run_id, idle_timeout=0.01))  # type: ignore[arg-type] # what is refused


class NoEvent:
    """It has neither run_id nor to_dict."""


class NoDict:
    run_id = "r"


BAD_EVENTS: dict[str, tuple[Any, type[RunstreamError], str | None]] = {
    "no event": (NoEvent(), RunstreamError, None),
    "no to_dict": (NoDict(), EncodingError, None),
    "unknown type": (make_event("r", payload={"args": [0, 1, 2, object()]}), EncodingError, "payload.args[3]"),
    "unknown type in a key": (make_event("r", payload={"a": {(1, object()): 2}}), EncodingError, None),
    "unknown type in a set": (make_event("r", payload={"a": {1, object()}}), EncodingError, None),
    "a class": (make_event("r", payload={"a": int}), EncodingError, "payload.a"),
    "too large": (make_event("r", payload={"x": "y" * 1000}), PayloadTooLarge, "payload"),
    "lane": (make_event("r", lane_id=5), EncodingError, "lane_id"),
    "no lane": (make_event("r", lane_id=None), EncodingError, "lane_id"),
    "long lane": (make_event("r", lane_id="x" * 513), EncodingError, "lane_id"),
    "surrogate lane": (make_event("r", lane_id="\ud800"), EncodingError, "lane_id"),
    "session": (make_event("r", session_id=None), EncodingError, "session_id"),
    "long session": (make_event("r", session_id="é" * 300), EncodingError, "session_id"),
    "kind": (make_event("r", kind=5), EncodingError, "kind"),
    "visibility": (make_event("r", visibility=None), EncodingError, "visibility"),
    "ts nan": (make_event("r", ts=math.nan), EncodingError, "ts"),
    "ts inf": (make_event("r", ts=math.inf), EncodingError, "ts"),
    "ts text": (make_event("r", ts="now"), EncodingError, "ts"),
    "seq text": (make_event("r", seq="1"), EncodingError, "seq"),
    "seq float": (make_event("r", seq=1.0), EncodingError, "seq"),
    "seq beyond 64 bits": (make_event("r", seq=2**63), EncodingError, "seq"),
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_a_bad_event_is_refused_by_name_and_nothing_is_written(backend: Backend, name: str) -> None:
    event, error, path = BAD_EVENTS[name]
    store = backend.open(max_event_bytes=600)
    for attempt in (
        lambda: store.save_event(event),
        lambda: store.save_events([make_event("good"), event]),
        lambda: store.append("r", [make_event("r"), event], snapshot=make_state("r")),
    ):
        with pytest.raises(error) as caught:
            attempt()
        if path is not None:
            assert isinstance(caught.value, EncodingError)
            assert caught.value.path == path
            assert path in str(caught.value)
    assert store.list_runs() == []
    assert store.run_info("r") is None
    assert store.load_latest("r") is None


def test_a_payload_that_is_too_large_says_by_how_much(backend: Backend) -> None:
    store = backend.open(max_event_bytes=600)
    store.save_event(make_event("r", payload={"x": "y" * 400}))
    with pytest.raises(PayloadTooLarge, match="600") as caught:
        store.save_event(make_event("r", payload={"x": "y" * 1000}))
    assert caught.value.limit == 600
    assert 1000 < caught.value.size < 1200
    assert info_of(store).last_offset == 1


def test_a_value_that_contains_itself_is_refused(store: Store) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(EncodingError, match="contains itself") as caught:
        store.save_event(make_event("r", payload={"x": endless}))
    assert caught.value.path.startswith("payload.x[0][0]")
    assert store.list_runs() == []


def test_what_is_nested_deeply_is_refused_or_comes_back(store: Store) -> None:
    """Whatever depth a store takes, it can read; what it cannot, it does not take."""
    for depth in (100, 505, 600, 1000):
        nested: list[Any] = []
        for _ in range(depth):
            nested = [nested]
        run_id = f"r{depth}"
        try:
            store.save_event(make_event(run_id, payload={"x": nested}))
        except EncodingError:
            assert depth > 100
            assert store.run_info(run_id) is None
            continue
        loaded = store.list_events(run_id)[0].payload["x"]
        for _ in range(depth):
            (loaded,) = loaded
        assert loaded == []


def test_an_event_of_another_run_is_not_appended(store: Store) -> None:
    with pytest.raises(InvalidRunId, match="another"):
        store.append("r", [make_event("r"), make_event("another")])
    assert store.list_runs() == []


def test_an_id_that_is_more_than_its_text_is_refused(store: Store) -> None:
    """A str Enum is equal to one text and formats as another: it would be two runs in one."""

    class Run(str, Enum):
        TRIP = "trip"

    with pytest.raises(InvalidRunId, match="plain string"):
        store.append(Run.TRIP, [])
    with pytest.raises(InvalidRunId):
        store.save_event(make_event(Run.TRIP))
    with pytest.raises(EncodingError, match="lane_id"):
        store.save_event(make_event("r", lane_id=Run.TRIP))
    assert store.list_runs() == []
