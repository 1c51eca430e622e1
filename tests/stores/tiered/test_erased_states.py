"""A state that an archive alone has, and that is to be erased there, is nobody's to go on from."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import ConcurrencyConflict, DrainWorker
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.tiered.tiers import Hot, Tiered
from tests.support.samples import make_event, make_state
from tests.support.servers import eventually


@pytest.fixture(params=["ended", "retired"])
def away(request: pytest.FixtureRequest, hot: Hot, archive: ArchiveStore[Any, Any]) -> None:
    """A run of two lanes, of which the state of the first has left Redis; the other one's covers another event."""
    for lane in "ab":
        state = make_state("r", data={"got": lane})
        ends = [lane] if request.param == "ended" else []
        hot.append("r", [make_event("r", 1, lane_id=lane)], snapshot=state, lane_id=lane, end_lanes=ends)
    worker = DrainWorker(
        hot, [archive], trim="archived", retire_idle_seconds=0.0 if request.param == "retired" else None
    )
    for _ in range(2):
        assert worker.drain_once().parked == 0


def drained(hot: Hot, archive: ArchiveStore[Any, Any]) -> None:
    assert DrainWorker(hot, [archive]).drain_once().parked == 0
    eventually(lambda: all(one.done for one in hot.erasures("r")))  # once the server has written its file anew


@pytest.mark.usefixtures("away")
def test_it_is_not_given_while_it_is_to_be_erased(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered
) -> None:
    assert not tiered.erase("r", [2], drop_snapshots=True).done
    agent = TieredCheckpointer(hot, archive)
    assert agent.load_snapshot("r", lane_id="b") is None
    kept = agent.load_snapshot("r", lane_id="a")
    assert kept is not None
    assert kept.state.data == {"got": "a"}
    recovery = agent.recover("r", lane_id="b")
    assert (recovery.state, recovery.offset) == (None, 0)
    agent.save_snapshot("r", make_state("r", data={"new": 1}), lane_id="b")
    drained(hot, archive)
    saved = agent.load_snapshot("r", lane_id="b")
    assert saved is not None
    assert saved.state.data == {"new": 1}


@pytest.mark.usefixtures("away")
def test_who_has_loaded_it_before_saves_nothing_of_it(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered
) -> None:
    agent = TieredCheckpointer(hot, archive)
    had = agent.load_snapshot("r", lane_id="b")
    assert had is not None
    tiered.erase("r", [2], drop_snapshots=True)
    for _ in range(2):
        with pytest.raises(ConcurrencyConflict):
            agent.append("r", [make_event("r", 2, lane_id="b")], snapshot=had.state, lane_id="b")
        if not hot.erasures("r")[0].done:
            drained(hot, archive)
    assert agent.load_snapshot("r", lane_id="b") is None
    agent.save_snapshot("r", make_state("r"), lane_id="b")
