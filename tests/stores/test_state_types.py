"""States of other people's classes, whole: purpose-agent's own, and models of either version of pydantic."""

from __future__ import annotations

from typing import Any

import pydantic
import pydantic.v1
import pytest
from purpose_agent.runtime import RunState as TheirState
from purpose_agent.runtime import RunStatus as TheirStatus

from runstream.model.state import RunState
from tests.support.backends import Backend, latest
from tests.support.handles import open_run
from tests.support.kinds import SHARED, on_every_backend, short


def their_state(state_type: type[Any] = TheirState) -> Any:
    """A state of which purpose-agent's own to_dict drops a part."""
    state = state_type("r", session_id="s", status=TheirStatus.RUNNING, data={"a": (1,)})
    state.action_history = [{"action": n} for n in range(60)]
    state.mark_node_started("one")
    state.mark_node_completed("one", {"out": 1})
    state.mark_node_started("two")
    state.mark_node_failed("two", "broke")
    return state


@on_every_backend
def test_purpose_agents_own_state_comes_back_whole(backend: Backend) -> None:
    """The times of its nodes and all of its actions, from a snapshot and from a checkpoint."""
    store = backend.open(state_type=TheirState)
    state = their_state()
    store.save_snapshot("r", state)
    assert latest(store, "r") == state
    assert type(latest(store, "r")) is TheirState
    assert latest(store, "r").status is TheirStatus.RUNNING
    run = open_run(store)
    run.state.mark_node_started("three")
    run.checkpoint()
    assert latest(store, "r") == run.state != state
    assert store.update_state("r", lambda state: state.action_history.append({})) == latest(store, "r")
    assert len(latest(store, "r").action_history) == 61


def test_what_purpose_agents_own_class_has_written_is_read(backend: Backend) -> None:
    """As it gives it itself, and what it does not give stays at its default."""
    store = backend.open(state_type=TheirState)
    given = their_state().to_dict()
    as_given: Any = type("AsGiven", (), {"to_dict": lambda _: given})()
    store.save_snapshot("r", as_given)
    loaded = latest(store, "r")
    assert loaded == TheirState.from_dict(given)
    assert loaded.to_dict() == given
    assert loaded.node_states["one"].finished_at == 0.0


def test_a_status_that_purpose_agent_does_not_know_reads_as_one_that_it_knows(backend: Backend) -> None:
    store = backend.open(state_type=TheirState)
    state = their_state()
    state.status = "stuck"
    store.save_snapshot("r", state)
    loaded = latest(store, "r")
    assert loaded == state
    assert (type(loaded.status), loaded.status.value, loaded.status.name) == (TheirStatus, "stuck", "STUCK")
    assert loaded.to_dict()["status"] == "stuck"


@pytest.mark.parametrize("backend", short(SHARED), indirect=True)
def test_either_librarys_states_are_read_as_the_others(backend: Backend) -> None:
    state = their_state()
    backend.open(state_type=TheirState).save_snapshot("r", state)
    ours = latest(backend.open(), "r")
    assert type(ours) is RunState
    assert vars(ours) | {"node_states": {}} == vars(state) | {"node_states": {}}
    assert {k: vars(n) for k, n in ours.node_states.items()} == {k: vars(n) for k, n in state.node_states.items()}


class Mine(TheirState):  # type: ignore[misc] # it has no types
    """A subclass is the user's own, and stored as it says itself."""

    def to_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "mine": True, "actions": len(self.action_history)}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Mine:
        return cls(d["run_id"], metadata=d)


def test_a_subclass_of_purpose_agents_state_keeps_its_own_way(backend: Backend) -> None:
    store = backend.open(state_type=Mine)
    store.save_snapshot("r", their_state(Mine))
    assert latest(store, "r").metadata == {"run_id": "r", "mine": True, "actions": 60}
    assert latest(store, "r").node_states == {}


class Message(pydantic.BaseModel):
    text: str


class ToolMessage(Message):
    tool: str
    cost: float = 0.5


class Talk(pydantic.BaseModel):
    run_id: str
    messages: list[Message] = []
    last: Message | None = None
    by_name: dict[str, Message] = {}


class OldMessage(pydantic.v1.BaseModel):
    text: str


class OldToolMessage(OldMessage):
    tool: str


class OldTalk(pydantic.v1.BaseModel):
    run_id: str
    step: int = 0
    messages: list[OldMessage] = []


@on_every_backend
def test_a_pydantic_state_keeps_the_fields_of_subclasses(backend: Backend) -> None:
    """In fields that are typed with the base."""
    store = backend.open(state_type=Talk)
    tool = ToolMessage(text="t", tool="search")
    store.save_snapshot("r", Talk(run_id="r", messages=[tool], last=tool, by_name={"tool": tool}))
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    whole = {"text": "t", "tool": "search", "cost": 0.5}
    assert snapshot.stored == {"run_id": "r", "messages": [whole], "last": whole, "by_name": {"tool": whole}}
    assert type(snapshot.state.last) is Message
    store.update_state("r", lambda state: setattr(state.last, "text", "changed"))
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert snapshot.stored["last"] == {**whole, "text": "changed"}
    assert snapshot.stored["by_name"] == {"tool": whole}


@on_every_backend
def test_a_state_may_be_a_model_of_pydantics_first_version(backend: Backend) -> None:
    store = backend.open(state_type=OldTalk)
    state = OldTalk(run_id="r", messages=[OldToolMessage(text="t", tool="search")])
    store.save_snapshot("r", state)
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert snapshot.stored == {"run_id": "r", "step": 0, "messages": [{"text": "t", "tool": "search"}]}
    assert snapshot.state == OldTalk(run_id="r", messages=[OldMessage(text="t")])
    run = open_run(store)
    run.state.step = 1
    run.checkpoint()
    assert latest(store, "r").step == 1
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert snapshot.stored == {"run_id": "r", "step": 1, "messages": [{"text": "t"}]}
