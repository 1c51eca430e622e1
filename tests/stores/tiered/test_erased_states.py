"""A state that an archive alone has, and that is to be erased there, is nobody's to go on from."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import ConcurrencyConflict, ConfigurationError, DrainWorker, EventsArchived
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


@pytest.mark.usefixtures("away")
def test_one_that_holds_nothing_of_what_is_erased_is_in_nobodys_way(hot: Hot, tiered: Tiered) -> None:
    """What it covers the archive knows, and names it; Redis alone knows that there is one."""
    hot.append("r", [make_event("r", 1, lane_id="c")])
    with pytest.raises(EventsArchived, match=r"may hold what is to be erased: ask.* drop_snapshots=True"):
        hot.erase("r", [3])
    assert tiered.erase("r", [3]).spans == ((3, 3),)
    with pytest.raises(ConfigurationError, match=r"erased: that of lane 'b' \(revision 1, covers 2\); pass"):
        tiered.erase("r", [2])
    tiered.erase("r", [2], drop_snapshots=True)
    assert tiered.erase("r", [2]).spans == ((2, 2),), "it goes already"
    kept = tiered.load_snapshot("r", lane_id="a")
    assert kept is not None
    assert kept.state.data == {"got": "a"}


@pytest.mark.parametrize("has_left", ["ended", "retired", "forgotten"])
def test_one_that_a_fork_has_is_not_dropped_unasked(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered, has_left: str
) -> None:
    """The fork shares what is to be erased, and its state may hold that."""
    hot.append("r", [make_event("r", seq) for seq in (1, 2)])
    hot.fork("r", "f", at=1)
    hot.append("f", [make_event("f", 2, lane_id="a")], snapshot=make_state("f"), lane_id="a")
    if has_left == "ended":
        hot.append("f", (), end_lanes=["a"])
    worker = DrainWorker(
        hot,
        [archive],
        trim="archived",
        retire_idle_seconds=None if has_left == "ended" else 0.0,
        forget_after_seconds=0.0 if has_left == "forgotten" else None,
    )
    for _ in range(3):
        assert worker.drain_once().parked == 0
    if has_left != "forgotten":
        with pytest.raises(EventsArchived, match="run 'f' has latest snapshots that have left Redis"):
            hot.erase("r", [1])
    with pytest.raises(ConfigurationError, match=r"run 'f' .* comes from: that of lane 'a' \(revision 1, covers"):
        tiered.erase("r", [1])
    tiered.erase("r", [2])
    drained(hot, archive)
    assert tiered.load_snapshot("f", lane_id="a") is not None
    tiered.erase("r", [1], drop_snapshots=True)
    drained(hot, archive)
    assert tiered.load_snapshot("f", lane_id="a") is None


def test_one_that_comes_while_something_is_to_be_erased_still_is_given(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered
) -> None:
    """It was made after that, and its lane is ended; a fork that shares it is leased meanwhile."""
    hot.append("r", [make_event("r", seq, lane_id="a") for seq in (1, 2)])
    hot.fork("r", "f")
    with hot.lease("f", owner="me"):
        tiered.erase("r", [1])
        tiered.recover("r", lane_id="a")
        tiered.append(
            "r", [make_event("r", 3, lane_id="a")], snapshot=make_state("r"), lane_id="a", end_lanes=["a"]
        )
        worker = DrainWorker(hot, [archive], trim="archived", claim_seconds=0.1)
        for _ in range(2):
            assert worker.drain_once().parked == 0
        assert not tiered.erasures("r")[0].done
        assert tiered.load_snapshot("r", lane_id="a") is not None

    def has_left() -> bool:
        worker.drain_once()
        try:
            return hot.load_snapshot("r", lane_id="a") is None
        except EventsArchived:
            return True

    eventually(has_left)
    assert tiered.load_snapshot("r", lane_id="a") is not None
