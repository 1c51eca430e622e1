"""A snapshot of many fields is fetched once by a store that asks for it again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runstream.codec.snapshot_fields import read_saved
from runstream.model.errors import ConcurrencyConflict
from runstream.stores.redis.operations.client import snapshots
from tests.support.backends import Backend, Store, latest
from tests.support.kinds import REDIS, short
from tests.support.samples import RICH_VALUES, make_events, make_state, same

KINDS = short([*REDIS, *(f"async-{name}" for name in REDIS if "resp" not in name)])
LARGE = {**{f"key {number}": number for number in range(1000)}, **RICH_VALUES}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many fields each snapshot had that was fetched."""
    sizes: list[int] = []

    def noting(saved: Any, *known: Any) -> Any:
        sizes.append(len(saved))
        return read_saved(saved, *known)

    monkeypatch.setattr(snapshots, "read_saved", noting)
    return sizes


@pytest.fixture(params=KINDS)
def large(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> tuple[Store, Store]:
    """A store that has saved a large state, and another over the same place."""
    backend = make_backend(request.param)
    store, other = backend.open(), backend.open()
    store.append("r", make_events("r", 2), snapshot=make_state("r", data=LARGE))
    store.save_snapshot("r", make_state("r", data=LARGE, purpose="of the lane"), lane_id="a")
    return store, other


def test_it_is_fetched_once_and_each_state_is_another(large: tuple[Store, Store], fetched: list[int]) -> None:
    store, other = large
    for reader, times in ((other, 1), (store, 0)):
        fetched.clear()
        for _ in range(3):
            state = latest(reader, "r")
            assert same(state.data, LARGE)
            assert list(state.data) == list(LARGE)
            state.data["key 1"] = "changed"
            lane = reader.load_snapshot("r", lane_id="a")
            assert lane is not None
            assert (lane.state.purpose, lane.offset, lane.revision) == ("of the lane", 2, 1)
        assert len(fetched) == 2 * times


def test_one_that_has_changed_is_fetched_again(large: tuple[Store, Store], fetched: list[int]) -> None:
    """Whoever changed it; and one that is gone is gone."""
    store, other = large
    for revision in (2, 3):
        latest(other, "r")
        store.update_state("r", lambda state: state.data.update({"key 1": "changed"}))
        fetched.clear()
        snapshot = other.load_snapshot("r")
        assert snapshot is not None
        assert same(snapshot.state.data, {**LARGE, "key 1": "changed"})
        assert (snapshot.offset, snapshot.revision, len(fetched)) == (2, revision, 1)
    store.delete_run("r")
    assert other.load_latest("r") is None
    store.append("r", make_events("r", 1), snapshot=make_state("r", purpose="anew"))
    assert latest(other, "r").purpose == "anew"


def test_a_writer_goes_on_from_the_one_that_it_knows(large: tuple[Store, Store]) -> None:
    store, other = large
    latest(other, "r")
    latest(other, "r")
    other.append("r", make_events("r", 1, first=3), snapshot=make_state("r", data=LARGE, purpose="next"))
    assert latest(store, "r").purpose == "next"
    latest(other, "r")
    store.save_snapshot("r", make_state("r", data=LARGE))
    with pytest.raises(ConcurrencyConflict):
        other.append("r", (), snapshot=make_state("r", data=LARGE, purpose="too late"))
