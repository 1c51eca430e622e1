"""Upcasts in every store: what older versions of a program wrote is read as this one writes it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint as theirs

import runstream
from runstream import (
    ConfigurationError,
    EncodingError,
    EventKind,
    EventRefused,
    JSONLCheckpointer,
    PAEvent,
    RunState,
    SQLiteCheckpointer,
    UnsupportedVersion,
    Upcasts,
    connect,
)
from runstream.codec.event_codec import Codec
from tests.support.backends import (
    Backend,
    MemoryBackend,
    Store,
    latest,
)
from tests.support.kinds import BACKENDS, on_every_backend, short
from tests.support.operations import operations_of
from tests.support.samples import make_event
from tests.support.schema import FIRST, UPCASTS, new_event, new_state, old_event, old_state


class Raw(dict[str, Any]):
    """An event that is nothing but its fields, further ones included."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Raw:
        return cls(fields)


class Program:
    """A program that is changed over the years: what it writes stays in one place."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._is_memory = isinstance(getattr(backend, "_inner", backend), MemoryBackend)
        self._memory: Store | None = None

    def version(self, upcasts: Upcasts | None, **types: Any) -> Store:
        """The program's store, as that version opens it."""
        if self._memory is None or not self._is_memory:
            self._memory = self._backend.open(upcasts=upcasts, **types)
        else:  # the memory of one object
            operations_of(self._memory).codec = Codec(upcasts=upcasts, **types)
        return self._memory


@pytest.fixture
def program(backend: Backend) -> Program:
    return Program(backend)


def kinds_of(store: Store, **options: Any) -> list[str]:
    return [str(item.event.to_dict()["kind"]) for item in store.read("r", **options)]


@on_every_backend
def test_what_older_versions_wrote_is_read_as_this_one_writes_it(program: Program) -> None:
    program.version(None).append("r", [old_event(1), make_event("r", 2)], snapshot=old_state(2))
    program.version(FIRST).append("r", [old_event(3)])
    store = program.version(UPCASTS)
    assert latest(store, "r").to_dict() == {**new_state(2).to_dict(), **_times(latest(store, "r"))}
    store.append("r", [new_event(4)])
    found = list(store.read("r"))
    assert [item.event.kind for item in found] == [
        EventKind.TOOL_STARTED,
        EventKind.AGENT_PROGRESS,
        EventKind.TOOL_STARTED,
        EventKind.TOOL_STARTED,
    ]
    assert [item.event.payload for item in found if item.event.kind == EventKind.TOOL_STARTED] == [
        {"arguments": [seq]} for seq in (1, 3, 4)
    ]
    assert all(type(item.event) is PAEvent for item in found)
    assert store.list_events("r", 2) == [item.event for item in found[2:]]
    assert [item.event for item in store.recover("r").events] == [item.event for item in found[2:]]
    assert kinds_of(store, reverse=True, limit=1) == ["tool.started"]


def _times(state: RunState) -> dict[str, Any]:
    return {"started_at": state.started_at, "updated_at": state.updated_at}


def test_without_upcasts_events_are_given_as_they_were_stored(program: Program) -> None:
    program.version(UPCASTS).append("r", [new_event(1)], snapshot=new_state(1))
    program.version(None).append("r", [old_event(2)])
    store = program.version(None, event_type=Raw, state_type=dict)
    first, second = store.list_events("r")
    assert (first["$schema"], first["kind"], "origin" in first) == (3, "tool.started", False)
    assert ("$schema" in second, second["kind"], second["payload"]) == (False, "tool.called", {"args": [2]})
    assert "$schema" not in latest(store, "r")
    newest = program.version(UPCASTS, event_type=Raw)
    assert [event["origin"] for event in newest.list_events("r")[1:]] == ["tool.started"]
    assert not any("$schema" in event for event in newest.list_events("r"))
    assert "origin" not in newest.list_events("r")[0]  # it is of version 3 as it stands


def test_the_first_version_writes_what_was_always_written(program: Program) -> None:
    program.version(FIRST).append("r", [old_event(1)], snapshot=old_state(1))
    store = program.version(None, event_type=Raw, state_type=dict)
    (event,) = store.list_events("r")
    assert set(event) == set(PAEvent("r").to_dict())


def test_a_state_is_saved_as_one_of_this_version(program: Program) -> None:
    program.version(None).save_snapshot("r", old_state(5))
    store = program.version(UPCASTS)

    def step(state: RunState) -> None:
        state.current_step += 1

    assert store.update_state("r", step).current_step == 6
    assert latest(store, "r").current_step == 6
    assert latest(store, "r").data == {"kept": True}
    with store.open_run("r") as run:
        assert run.state.current_step == 6
        run.state.current_step += 1
        run.checkpoint()
    assert latest(store, "r").current_step == 7
    assert latest(program.version(UPCASTS), "r").current_step == 7


@pytest.mark.parametrize("state_type", [None, dict])
def test_who_has_no_version_keeps_that_of_a_state_that_it_changes(program: Program, state_type: Any) -> None:
    """As an older process does in a rolling deployment."""
    program.version(UPCASTS).save_snapshot("r", new_state(1))

    def change(state: Any) -> Any:
        return {**state, "purpose": "changed"} if state_type is dict else setattr(state, "purpose", "changed")

    store = program.version(None, state_type=state_type)
    store.update_state("r", change)
    with store.open_run("r") as run:
        change(run.state) if state_type is None else run.state.update(purpose="changed twice")
        run.checkpoint()
    assert "$schema" not in (latest(store, "r") if state_type is dict else latest(store, "r").to_dict())
    loaded = latest(program.version(UPCASTS), "r")  # the rule for version 1 would fail
    assert (loaded.current_step, loaded.purpose) == (1, "changed twice" if state_type is dict else "changed")
    store = program.version(None, state_type=state_type)
    whole = latest(store, "r")
    store.save_snapshot("r", whole)  # it replaces the whole, as what is of version 1
    with pytest.raises(runstream.RunstreamError, match="with_steps"):
        program.version(UPCASTS).load_latest("r")


def test_a_run_goes_on_from_what_older_versions_wrote(program: Program) -> None:
    program.version(None).append("r", [old_event(1)], snapshot=old_state(1))
    store = program.version(UPCASTS)
    with store.open_run("r", deltas=runstream.DeltaBuffer()) as run:
        assert run.state.current_step == 1
        run.emit("tool.started", {"arguments": [2]}, key="k")
        run.emit_delta("text", more=(1, 2))
        again = run.emit("tool.started", {"arguments": ["again"]}, key="k")
        assert again.event.payload == {"arguments": [2]}
        run.finish()
    payloads = [item.event.payload for item in store.read("r")]
    assert payloads[:2] == [{"arguments": [1]}, {"arguments": [2]}]
    assert payloads[2]["more"] == (1, 2)
    with store.open_run("new") as run:  # a new state is of this version, and no rule is for it
        assert run.state.current_step == 0


@pytest.mark.parametrize("backend", short(BACKENDS), indirect=True)
def test_followers_choose_by_the_new_kind(program: Program) -> None:
    program.version(None).append("r", [old_event(1), make_event("r", 2), old_event(3)])
    store = program.version(UPCASTS)
    store.append("r", [new_event(4), make_event("r", 5, kind="run.finished")])
    assert [item.offset for item in store.follow("r", kinds=["tool.started"])] == [1, 3, 4]
    assert list(store.follow("r", kinds=["tool.called"])) == []
    plain = program.version(None)
    assert [item.offset for item in plain.follow("r", kinds=["tool.called"])] == [1, 3]


@pytest.mark.parametrize("backend", short(BACKENDS), indirect=True)
def test_followers_choose_by_the_new_visibility(backend: Backend) -> None:
    hides = Upcasts(version=2)

    @hides.event("tool.called", since=1)
    def hidden(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "visibility": runstream.Visibility.INTERNAL}

    program = Program(backend)
    program.version(None).append("r", [old_event(1), make_event("r", 2, kind="run.finished")])
    store = program.version(hides)
    assert [item.offset for item in store.follow("r", visibility="public")] == [2]
    (event, _) = store.list_events("r")
    assert event.visibility is runstream.Visibility.INTERNAL


# -- what cannot be read ---------------------------------------------------------------------------------


def test_a_newer_version_is_refused_with_its_offset(program: Program) -> None:
    program.version(None).append("r", [old_event(1)])
    newer = program.version(UPCASTS)
    newer.recover("r")
    newer.append("r", [new_event(2)], snapshot=new_state(2))
    older = Upcasts(version=2)
    store = program.version(older)
    with pytest.raises(UnsupportedVersion, match=r"event 2 of run 'r' has schema version 3") as refused:
        list(store.read("r"))
    assert (refused.value.found, refused.value.supported) == (3, 2)
    assert (refused.value.run_id, refused.value.offset) == ("r", 2)
    with pytest.raises(UnsupportedVersion, match="the state of run 'r' at offset 2 has schema version 3") as state:
        store.load_latest("r")
    assert (state.value.found, state.value.supported, state.value.offset) == (3, 2, 2)
    for call in (store.load_snapshot, store.recover, store.list_events):
        with pytest.raises(UnsupportedVersion):
            call("r")
    with pytest.raises(UnsupportedVersion):
        store.update_state("r", lambda _: None)


def test_the_events_before_a_newer_one_are_given(program: Program) -> None:
    program.version(None).append("r", [old_event(1), old_event(2)])
    program.version(UPCASTS).append("r", [new_event(3)])
    found = iter(program.version(FIRST).read("r"))
    assert [next(found).offset, next(found).offset] == [1, 2]
    with pytest.raises(UnsupportedVersion):
        next(found)


def raises(fields: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("args")


def gives_nothing(fields: dict[str, Any]) -> Any:
    fields.clear()


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (raises, "KeyError: 'args'"),
        (gives_nothing, "it gives no dict of fields, but None"),
        (lambda fields: {**fields, 1: 2}, "it gives no dict of fields"),
        (lambda fields: {**fields, "run_id": "other"}, "it changes run_id, which no rule may"),
        (lambda fields: {**fields, "lane_id": "other"}, "it changes lane_id, which no rule may"),
        (lambda fields: {**fields, "seq": 7}, "it changes seq, which no rule may"),
        (
            lambda fields: {name: fields[name] for name in fields if name != "ts"},
            "it changes ts, which no rule may",
        ),
        (lambda fields: {**fields, "kind": 5}, "kind is text, not 5"),
        (lambda fields: {**fields, "$schema": 9}, r"it gives a field '\$schema', and none may start with"),
    ],
)
def test_a_rule_that_fails_says_so(rule: Any, why: str) -> None:
    broken = Upcasts(version=2)
    broken.event("tool.called", since=1)(rule)
    store = connect("memory:", upcasts=broken)
    operations_of(store).codec = Codec()
    store.append("r", [make_event("r", 1), old_event(2)])
    operations_of(store).codec = Codec(upcasts=broken)
    said = r"event 2 of run 'r', of kind 'tool.called', cannot be upcast from schema version 1 to 2: the rule .*"
    with pytest.raises(EventRefused, match=said + why) as refused:
        list(store.read("r"))
    assert (refused.value.run_id, refused.value.offset) == ("r", 2)


def test_a_rule_for_states_that_fails_says_so(program: Program) -> None:
    broken = Upcasts(version=2)
    broken.state(since=1)(lambda fields: {**fields, "run_id": "other"})
    program.version(None).append("r", [old_event(1)], snapshot=old_state(1))
    with pytest.raises(EventRefused, match=r"the state of run 'r' at offset 1 cannot be upcast .* run_id"):
        program.version(broken).load_latest("r")


@pytest.mark.parametrize("upcasts", [None, FIRST, UPCASTS])
def test_no_field_of_a_user_collides_with_the_version(store: Store, backend: Backend, upcasts: Any) -> None:
    store = backend.open(upcasts=upcasts, event_type=Raw, state_type=dict)
    for version in (1, 3, "https://json-schema.org/draft", None):
        with pytest.raises(EncodingError) as refused:
            store.append("r", [Raw(make_event("r", 1).to_dict(), **{"$schema": version})])
        assert refused.value.path == "$schema"
        with pytest.raises(EncodingError) as refused:
            store.save_snapshot("r", {"run_id": "r", "$schema": version})
        assert refused.value.path == "$schema"
    assert store.list_runs() == []


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "2", None])
def test_a_version_is_an_integer_from_1_on(version: Any) -> None:
    with pytest.raises(ConfigurationError, match="a schema version is an integer from 1 on"):
        Upcasts(version=version)


def test_rules_are_for_versions_that_there_are_and_there_is_one_of_each() -> None:
    upcasts = Upcasts(version=3)
    for since in (0, 3, 4, True, "1"):
        with pytest.raises(ConfigurationError, match="a rule leads from a version to the next one"):
            upcasts.event("k", since=since)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="a rule leads from a version to the next one"):
            upcasts.state(since=since)  # type: ignore[arg-type]
    upcasts.event(EventKind.TOOL_ARGS, since=1)(raises)
    with pytest.raises(ConfigurationError, match="there is a rule from version 1 already"):
        upcasts.event("tool.args", since=1)
    upcasts.state(since=2)(raises)
    with pytest.raises(ConfigurationError, match="there is a rule from version 2 already"):
        upcasts.state(since=2)


# -- stores that are opened by their URL -----------------------------------------------------------------


def by_url(directory: Path, upcasts: Upcasts) -> Any:
    return connect(f"sqlite:{directory}/runs.db", upcasts=upcasts)


def by_file(directory: Path, upcasts: Upcasts) -> Any:
    return SQLiteCheckpointer[Any, Any](directory / "runs.db", upcasts=upcasts)


def by_directory(directory: Path, upcasts: Upcasts) -> Any:
    return JSONLCheckpointer[Any, Any](directory / "runs", upcasts=upcasts)


@pytest.mark.exhaustive
@pytest.mark.one_in(3)
@pytest.mark.parametrize("open_store", [by_url, by_file, by_directory])
def test_a_store_with_upcasts_goes_to_another_process(tmp_path: Path, open_store: Any) -> None:
    with open_store(tmp_path, FIRST) as store:
        store.append("r", [old_event(1)], snapshot=old_state(1))
    with open_store(tmp_path, UPCASTS) as store:
        sent = pickle.dumps(store)
    child = (
        "import pickle, sys; s = pickle.load(sys.stdin.buffer)\nprint(s.list_events('r')[0].kind.value)\ns.close()"
    )
    done = subprocess.run([sys.executable, "-c", child], input=sent, capture_output=True, check=True)
    assert done.stdout == b"tool.started\n"
    local = Upcasts(version=2)
    local.event(since=1)(lambda fields: fields)
    with (
        open_store(tmp_path, local) as store,
        pytest.raises(ConfigurationError, match="under a name of its own"),
    ):
        pickle.dumps(store)


async def test_an_async_store_has_them_too(tmp_path: Path) -> None:
    url = f"jsonl:{tmp_path}/runs"
    with connect(url) as plain:
        plain.append("r", [old_event(1)], snapshot=old_state(1))
    async with runstream.connect_async(url, upcasts=UPCASTS) as store:
        assert [item.event.kind async for item in store.read("r")] == [EventKind.TOOL_STARTED]
        state = await store.load_latest("r")
        assert state is not None
        assert state.current_step == 1


# -- purpose-agent's own readers -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_purpose_agents_own_reader_ignores_the_version(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    with connect(f"{kind}:{place}", upcasts=UPCASTS) as store:
        store.append("r", [new_event(1)], snapshot=new_state(1))
    made = theirs.SQLiteCheckpointer(str(place)) if kind == "sqlite" else theirs.JSONLCheckpointer(str(place))
    (event,) = made.list_events("r")
    assert (event.kind.value, event.payload) == ("tool.started", {"arguments": [1]})
    state = made.load_latest("r")
    assert (state.current_step, state.data) == (1, {"kept": True})
