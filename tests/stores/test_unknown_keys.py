"""A state whose class does not know some of its keys: an older process in a rolling deployment keeps them."""

from __future__ import annotations

from typing import Any, ClassVar

import pydantic
import pydantic.v1
import pytest

from runstream.codec.upcasts import Upcasts
from runstream.model.errors import ConcurrencyConflict
from tests.support.backends import Backend, Store, latest
from tests.support.handles import open_run, restarted
from tests.support.kinds import BACKENDS, SHARED, on_every_backend, short

# a change of an async store runs on its event loop, which cannot wait there for another
CHANGED_WITHIN = short(name for name in BACKENDS if not name.startswith(("async", "threaded")))


class Aging:
    """A state whose class knows some keys: of itself, and of its nodes."""

    knows: ClassVar[set[str]] = set()

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = {key: value for key, value in fields.items() if key in self.knows}
        self.nodes = {
            name: {key: value for key, value in node.items() if key in self.knows}
            for name, node in fields.get("nodes", {}).items()
        }

    def to_dict(self) -> dict[str, Any]:
        return {**self.fields, "nodes": self.nodes}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Aging:
        return cls(fields)


WHOLE = {
    "run_id": "r",
    "n": 1,
    "added": {"by": ("a", "newer"), "process": b"!"},
    "nodes": {"one": {"n": 1, "added": 2}, "two": {"n": 1, "added": {"deep": 3}}},
}


@pytest.fixture
def aged(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in which a newer process has saved a state, opened by an older one; both have the class of now."""
    store = backend.open(state_type=Aging)
    monkeypatch.setattr(Aging, "knows", {"run_id", "n", "added"})
    store.save_snapshot("r", Aging(WHOLE))
    store.save_snapshot("r", Aging(WHOLE), lane_id="side")
    monkeypatch.setattr(Aging, "knows", {"run_id", "n"})
    return store


def stored(store: Store, lane_id: str | None = None) -> Any:
    snapshot = store.load_snapshot("r", lane_id=lane_id)
    assert snapshot is not None
    return snapshot.stored


def one_step_on(state: Any) -> None:
    state.fields["n"] += 1


@on_every_backend
def test_a_changed_state_keeps_what_its_class_does_not_know(aged: Store) -> None:
    """Also if the change returns a state that it has made itself."""
    aged.update_state("r", one_step_on)
    assert stored(aged) == {**WHOLE, "n": 2}
    changed = aged.update_state("r", lambda state: Aging({"run_id": "r", "n": 3, "nodes": state.nodes}))
    assert not hasattr(changed, "added")
    assert stored(aged) == {**WHOLE, "n": 3}


def test_what_is_removed_takes_what_was_left_out_of_it_along(aged: Store) -> None:
    """And what the class knows and removes stays removed, while what it does not know beside it stays."""

    def change(state: Any) -> None:
        del state.nodes["one"], state.nodes["two"]["n"], state.fields["n"]
        state.nodes["three"] = {"n": 1}

    aged.update_state("r", change)
    assert stored(aged) == {
        "run_id": "r",
        "added": WHOLE["added"],
        "nodes": {"two": {"added": {"deep": 3}}, "three": {"n": 1}},
    }


@pytest.mark.one_in(2)
@on_every_backend
@pytest.mark.parametrize("lane_id", ["main", "side"])
def test_a_run_keeps_what_its_states_class_does_not_know(aged: Store, lane_id: str) -> None:
    """At every checkpoint, with events or without, changed or replaced, and at its end."""
    snapshot_lane = None if lane_id == "main" else lane_id
    run = open_run(aged, lane_id=lane_id)
    run.checkpoint()
    assert stored(aged, snapshot_lane) == WHOLE
    one_step_on(run.state)
    run.emit_many(["x"], checkpoint=True)
    assert stored(aged, snapshot_lane) == {**WHOLE, "n": 2}
    run.state = Aging({"run_id": "r", "n": 5})
    run.checkpoint()
    assert stored(aged, snapshot_lane) == {**WHOLE, "n": 5, "nodes": {}}
    run.state.nodes["one"] = {"n": 6}  # another of the same name
    run.finish()
    assert stored(aged, snapshot_lane) == {**WHOLE, "n": 5, "nodes": {"one": {"n": 6}}}


def test_what_replaces_the_whole_replaces_what_its_class_does_not_know(aged: Store) -> None:
    state = aged.load_latest("r")
    aged.append("r", (), snapshot=state)
    known = {"run_id": "r", "n": 1, "nodes": {"one": {"n": 1}, "two": {"n": 1}}}
    assert stored(aged) == known
    run = open_run(aged, lane_id="side")
    run.save_snapshot("r", run.state)
    run.checkpoint()
    assert stored(aged, "side") == known


@pytest.mark.parametrize("backend", CHANGED_WITHIN, indirect=True)
def test_the_latest_state_counts_whoever_saved_it(
    backend: Backend, aged: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer process changes what the older does not know: that is kept, not what the older has seen first."""

    def newer_saves(value: str) -> None:
        monkeypatch.setattr(Aging, "knows", {"run_id", "n", "added"})
        newer = Aging({**WHOLE, "added": value})
        restarted(backend, aged).save_snapshot("r", newer)
        monkeypatch.setattr(Aging, "knows", {"run_id", "n"})

    tried: list[str] = []

    def change(state: Any) -> None:
        if not tried:
            newer_saves("during the change")
        tried.append("once")
        one_step_on(state)

    aged.update_state("r", change)
    assert stored(aged) == {**WHOLE, "n": 2, "added": "during the change"}
    assert len(tried) == 2


def test_a_run_goes_on_with_the_state_that_it_has_loaded_last(
    aged: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(aged)
    monkeypatch.setattr(Aging, "knows", {"run_id", "n", "added"})
    aged.save_snapshot("r", Aging({**WHOLE, "added": "during the run"}))
    monkeypatch.setattr(Aging, "knows", {"run_id", "n"})
    with pytest.raises(ConcurrencyConflict):
        run.checkpoint()
    run.state = run.load_latest("r")
    run.checkpoint()
    assert stored(aged) == {**WHOLE, "added": "during the run"}


class Renaming:
    """A state whose class has renamed a key: it takes the old one out of what it is given."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.run_id, self.goal = fields["run_id"], fields.get("goal", "")

    def to_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "goal": self.goal}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Renaming:
        if "purpose" in fields:
            fields["goal"] = fields.pop("purpose")
        return cls(fields)


def test_a_key_that_a_class_takes_out_is_known(backend: Backend) -> None:
    """It would come back with its former value otherwise, and undo the next change."""
    store = backend.open(state_type=Renaming)
    old: Any = type("Old", (), {"to_dict": lambda _: {"run_id": "r", "purpose": "old", "new": 1}})()
    store.save_snapshot("r", old)
    store.update_state("r", lambda state: setattr(state, "goal", "new"))
    store.update_state("r", lambda _: None)
    assert stored(store) == {"run_id": "r", "goal": "new", "new": 1}


class OlderModel(pydantic.BaseModel):
    run_id: str
    step: int = 0


class NewerModel(OlderModel):
    added: dict[str, Any] = {}


def test_a_pydantic_model_keeps_what_it_ignores(backend: Backend) -> None:
    store = backend.open(state_type=OlderModel)
    store.save_snapshot("r", NewerModel(run_id="r", added={"by": "newer"}))
    assert type(store.update_state("r", lambda state: OlderModel(run_id="r", step=1))) is OlderModel
    run = open_run(store)
    run.state.step += 1
    run.checkpoint()
    assert stored(store) == {"run_id": "r", "step": 2, "added": {"by": "newer"}}


class Unready:
    """A state that can be saved only once it is ready."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.step, self.is_ready = fields.get("step", 0), False

    def to_dict(self) -> dict[str, Any]:
        if not self.is_ready:
            raise ValueError("not yet")
        return {"run_id": "r", "step": self.step}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Unready:
        return cls(fields)


def test_a_state_that_cannot_be_saved_as_it_was_loaded_is_loaded(backend: Backend) -> None:
    store = backend.open(state_type=Unready)
    state = Unready({"step": 1})
    state.is_ready = True
    store.save_snapshot("r", state)
    run = open_run(store)
    assert run.state.step == 1

    def change(state: Any) -> None:
        state.is_ready = True
        state.step += 1

    assert store.update_state("r", change).step == 2


# -- beside rules for older versions of a program -----------------------------------------------------------

RULES = Upcasts(version=2)


@RULES.state(since=1)
def _purpose_is_goal(fields: dict[str, Any]) -> dict[str, Any]:
    fields["goal"] = fields.pop("purpose")
    return fields


def known_by(version: int) -> set[str]:
    return {"run_id", "purpose" if version == 1 else "goal"}


@pytest.mark.parametrize("backend", short(SHARED), indirect=True)
def test_what_a_rule_has_renamed_is_not_put_back(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer process that changes an older one's state keeps what neither knows, under the newer names."""
    older, newer = backend.open(state_type=Aging), backend.open(state_type=Aging, upcasts=RULES)
    monkeypatch.setattr(Aging, "knows", {*known_by(1), "added"})
    for lane_id in (None, "side"):
        older.save_snapshot("r", Aging({"run_id": "r", "purpose": "old", "added": 1}), lane_id=lane_id)
    monkeypatch.setattr(Aging, "knows", known_by(2))
    newer.update_state("r", lambda state: state.fields.update(goal="new"))
    run = open_run(newer, lane_id="side")
    run.state.fields["goal"] = "new"
    run.checkpoint()
    for lane_id in (None, "side"):
        assert stored(older, lane_id) == {"run_id": "r", "goal": "new", "added": 1, "nodes": {}, "$schema": 2}
        assert stored(newer, lane_id) == {"run_id": "r", "goal": "new", "added": 1, "nodes": {}}


@pytest.mark.parametrize("backend", short(SHARED), indirect=True)
def test_a_process_without_rules_leaves_a_state_in_the_version_that_it_has(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes the fields of that version back, so the rules for older ones are not for them."""
    older, newer = backend.open(state_type=Aging), backend.open(state_type=Aging, upcasts=RULES)
    monkeypatch.setattr(Aging, "knows", known_by(2))
    newer.save_snapshot("r", Aging({"run_id": "r", "goal": "new"}))
    monkeypatch.setattr(Aging, "knows", known_by(1))
    older.update_state("r", lambda state: state.fields.update(purpose="own"))
    run = open_run(older)
    run.checkpoint()
    run.checkpoint()
    assert stored(older) == {"run_id": "r", "goal": "new", "purpose": "own", "nodes": {}, "$schema": 2}
    monkeypatch.setattr(Aging, "knows", known_by(2))
    assert latest(newer, "r").fields == {"run_id": "r", "goal": "new"}


@pytest.mark.parametrize("backend", short(SHARED), indirect=True)
def test_a_key_that_a_class_takes_out_of_a_state_with_a_version_is_known(backend: Backend) -> None:
    store = backend.open(state_type=Renaming)
    old: Any = type("Old", (), {"to_dict": lambda _: {"run_id": "r", "purpose": "old", "new": 1}})()
    backend.open(state_type=Renaming, upcasts=Upcasts(version=3)).save_snapshot("r", old)
    store.update_state("r", lambda state: setattr(state, "goal", "new"))
    assert stored(store) == {"run_id": "r", "goal": "new", "new": 1, "$schema": 3}


class Renamed(pydantic.BaseModel):
    """Its fields have other names outside, one is made of others, and one is kept as JSON."""

    model_config = pydantic.ConfigDict(extra="forbid")
    run_id: str
    steps: int = pydantic.Field(0, alias="stepCount")
    total: int = pydantic.Field(0, validation_alias="sum")
    notes: pydantic.Json[list[int]] = []
    inner: list[InnerModel] = []

    @pydantic.computed_field  # type: ignore[prop-decorator] # mypy knows no decorated properties
    @property
    def doubled(self) -> int:
        return 2 * self.steps


class InnerModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    deep: int = pydantic.Field(0, alias="deepCount")

    @pydantic.computed_field  # type: ignore[prop-decorator] # likewise
    @property
    def more(self) -> int:
        return self.deep + 1


class OldRenamed(pydantic.v1.BaseModel):
    run_id: str
    steps: int = pydantic.v1.Field(0, alias="stepCount")


def test_a_model_whose_fields_have_other_names_outside_comes_back_equal(backend: Backend) -> None:
    store = backend.open(state_type=Renamed)
    state = Renamed.model_validate(
        {"run_id": "r", "stepCount": 5, "sum": 7, "notes": "[1]", "inner": [{"deepCount": 3}]}
    )
    store.save_snapshot("r", state)
    assert store.load_latest("r") == state

    def count(found: Renamed) -> Renamed:
        found.steps += 1
        return found

    assert store.update_state("r", count).steps == 6
    loaded = latest(store, "r")
    assert (loaded.steps, loaded.total, loaded.notes, loaded.inner[0].deep) == (6, 7, [1], 3)


def test_a_model_of_the_first_version_with_other_names_comes_back_equal(backend: Backend) -> None:
    store = backend.open(state_type=OldRenamed)
    state = OldRenamed(run_id="r", stepCount=5)
    store.save_snapshot("r", state)
    assert store.load_latest("r") == state
