"""What every store refuses, by its name, before it writes anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest

from runstream.codec.plain_values import MAX_DEPTH
from runstream.model.errors import (
    EncodingError,
    InvalidRunId,
    PayloadTooLarge,
    RunstreamError,
    StoreUnavailable,
)
from tests.support.backends import Backend, Store, info_of
from tests.support.kinds import BACKENDS
from tests.support.samples import make_event, make_state


class NoEvent:
    """It has neither run_id nor to_dict."""


class NoDict:
    run_id = "r"


class Given:
    """An event that is nothing but its fields."""

    run_id = "r"

    def __init__(self, **fields: Any) -> None:
        self.fields = {**make_event("r").to_dict(), **fields}

    def to_dict(self) -> dict[str, Any]:
        return self.fields


class Raises:
    run_id = "r"

    def to_dict(self) -> dict[str, Any]:
        raise RuntimeError("not now")


class NoFields:
    run_id = "r"

    def to_dict(self) -> None:
        return None


class BadId(str):
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __ne__ = __eq__


class BadInt(int):
    def __int__(self) -> int:
        raise RuntimeError("no int")

    __index__ = __le__ = __lt__ = __ge__ = __gt__ = __int__  # type: ignore[assignment] # on purpose


class BadFloat(float):
    def __float__(self) -> float:
        raise RuntimeError("no float")


class BadKind(Enum):
    ONE = 1

    @property
    def value(self) -> int:
        raise RuntimeError("no value")


class BadDict:
    run_id = "r"

    @property
    def to_dict(self) -> Any:
        raise RuntimeError("not there")


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


BAD_EVENTS: dict[str, tuple[Any, type[RunstreamError], str | None]] = {
    "no event": (NoEvent(), RunstreamError, None),
    "no to_dict": (NoDict(), EncodingError, None),
    "to_dict that raises": (Raises(), EncodingError, None),
    "to_dict that gives nothing": (NoFields(), EncodingError, None),
    "run id of a kind of its own": (Given(run_id=BadId("r")), InvalidRunId, None),
    "kind without a value": (make_event("r", kind=BadKind.ONE), EncodingError, None),
    "to_dict that is not there": (BadDict(), EncodingError, None),
    "payload that is None": (make_event("r", payload=None), EncodingError, "payload"),
    "payload that is a list": (make_event("r", payload=[1]), EncodingError, "payload"),
    "payload that is text": (make_event("r", payload="text"), EncodingError, "payload"),
    "payload that is a path": (make_event("r", payload=Path("x")), EncodingError, "payload"),
    "no repr": (make_event("r", payload={"a": {NoRepr(): NoRepr()}}), EncodingError, None),
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
    "ts beyond floats": (make_event("r", ts=10**400), EncodingError, "ts"),
    "ts of another type": (make_event("r", ts=NoRepr()), EncodingError, "ts"),
    "ts text": (make_event("r", ts="now"), EncodingError, "ts"),
    "seq text": (make_event("r", seq="1"), EncodingError, "seq"),
    "seq float": (make_event("r", seq=1.0), EncodingError, "seq"),
    "seq beyond 64 bits": (make_event("r", seq=2**63), EncodingError, "seq"),
    "seq with too many digits": (make_event("r", seq=10**5000), EncodingError, "seq"),
    "lane of another type": (make_event("r", lane_id=NoRepr()), EncodingError, "lane_id"),
}


@pytest.mark.one_in(6)
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


@pytest.mark.one_in(len(BACKENDS))  # the codec finds it, the same for all
def test_a_value_that_contains_itself_is_refused(store: Store) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(EncodingError, match="contains itself") as caught:
        store.save_event(make_event("r", payload={"x": endless}))
    assert caught.value.path.startswith("payload.x[0][0]")
    assert store.list_runs() == []


def test_what_is_nested_deeply_is_refused_or_comes_back_to_any_reader(store: Store) -> None:
    """Every store takes the same depth, and reads it 700 frames down the stack."""

    def written_and_read(depth: int, run_id: str) -> int | None:
        nested: list[Any] = []
        for _ in range(depth - 2):
            nested = [nested]
        try:
            event = make_event(run_id, payload={"x": nested})
            store.append(run_id, [event], snapshot=make_state(run_id, metadata={"y": nested[0] if nested else 0}))
        except EncodingError as error:
            is_told = error.path.startswith("payload.x[0]") and store.run_info(run_id) is None
            return None if is_told else -1
        loaded, found = store.list_events(run_id)[0].payload["x"], 2
        assert store.load_latest(run_id) is not None
        while loaded:
            (loaded,), found = loaded, found + 1
        return found

    def stand(frames: int, depth: int, run_id: str) -> int | None:
        return stand(frames - 1, depth, run_id) if frames else written_and_read(depth, run_id)

    for depth in (100, MAX_DEPTH, MAX_DEPTH + 1, 505, 1000):
        expected = depth if depth <= MAX_DEPTH else None
        assert written_and_read(depth, f"r{depth}") == expected
        assert stand(700, depth, f"deep{depth}") == expected


def test_a_state_may_be_as_deep_as_a_payload(store: Store) -> None:
    """Itself included, whatever part of it that is, in every store."""
    for grow in (lambda inner: [inner], lambda inner: {"k": inner}):
        value: Any = 1
        for _ in range(MAX_DEPTH - 1):
            value = grow(value)
        store.save_snapshot("r", make_state("r", metadata=value if isinstance(value, dict) else {"x": value[0]}))
        assert store.load_latest("r") is not None
        with pytest.raises(EncodingError, match="deep") as caught:
            store.save_snapshot("r", make_state("r", metadata={"x": value}))
        assert caught.value.path.startswith("metadata.x")


def test_numbers_of_the_users_own_become_plain_ones(store: Store) -> None:
    """A seq and a time are columns, and are the same number wherever they are read."""

    class Step(IntEnum):
        FIRST = 7

    class Time(float):
        pass

    store.save_events([make_event("r", Step.FIRST, ts=Time(1.5)), make_event("r", True, ts=True)])
    found = [(event.seq, event.ts) for event in store.list_events("r")]
    assert [(type(seq), type(ts)) for seq, ts in found] == [(int, float), (int, int)]
    assert found == [(7, 1.5), (1, 1)]


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


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "ask",
    [
        lambda store: list(store.read("r", NoRepr())),
        lambda store: list(store.read("r", before=NoRepr())),
        lambda store: list(store.read("r", limit=NoRepr())),
        lambda store: list(store.read("r", on_corrupt=NoRepr())),
        lambda store: list(store.runs(status=NoRepr())),
        lambda store: list(store.runs(session_id=5)),
        lambda store: list(store.runs(updated_after="yesterday")),
        lambda store: list(store.runs(limit=NoRepr())),
        lambda store: store.append("r", [make_event("r")], expected_offset=NoRepr()),
        lambda store: store.append("r", [make_event("r")], keys=[NoRepr()]),
        lambda store: store.append("r", [NoRepr()]),
        lambda store: store.save_snapshot("r", NoRepr()),
        lambda store: store.load_latest(NoRepr()),
        lambda store: store.open_run("r").emit("tool.result", [1]),
        lambda store: store.open_run("r").emit("tool.result", NoRepr()),
        lambda store: store.open_run("r").emit(NoRepr()),
        lambda store: store.open_run("r").emit_many([("tool.result", "text")]),
    ],
)
def test_an_argument_that_is_none_is_refused_by_name(store: Store, ask: Callable[[Any], Any]) -> None:
    """Also one that cannot be shown in a message."""
    with pytest.raises(RunstreamError) as caught:
        ask(store)
    assert not isinstance(caught.value, StoreUnavailable)
    assert store.list_runs() == []
