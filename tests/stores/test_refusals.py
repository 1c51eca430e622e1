"""What every store refuses, by its name, before it writes anything."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import pytest

from runstream.model.errors import (
    EncodingError,
    InvalidRunId,
    PayloadTooLarge,
    RunstreamError,
)
from tests.support.backends import Backend, Store, info_of
from tests.support.kinds import BACKENDS
from tests.support.samples import make_event, make_state


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


@pytest.mark.one_in(3)
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
