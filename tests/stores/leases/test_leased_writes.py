"""P6 in every store with leases: what needs a lease, and that nothing is written without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from runstream.model.errors import (
    ConcurrencyConflict,
    InvalidRunId,
    LeaseHeld,
    LeaseLost,
)
from runstream.model.protocols import Checkpointer
from runstream.model.results import LeaseGrant
from tests.stores.leases.lease_tools import abandoned, carrying, content, on_every_leasing_pair, seqs, writes
from tests.support.backends import Blocking, Store, latest
from tests.support.samples import make_event, make_events, make_state


@pytest.mark.one_in(2)
@on_every_leasing_pair
def test_while_a_lane_is_leased_it_needs_that_lease(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    store.save_events([make_event("r", 1, lane_id="a"), make_event("r", 2, lane_id="b")])
    with store.lease("r", owner="one", lane_id="a") as lease:
        before = content(store)
        for writer in (store, other):
            for attempt in writes(writer, "r", "a"):
                with pytest.raises(LeaseHeld, match="lane 'a'"):
                    attempt()
        mixed = [make_event("r", 3, lane_id="b"), make_event("r", 4, lane_id="a")]
        for attempt in (lambda: other.save_events(mixed), lambda: other.append("r", mixed)):
            with pytest.raises(LeaseHeld):
                attempt()
        assert content(store) == before
        for attempt in writes(other, "r", "b"):
            attempt()
        other.save_snapshot("r", make_state("r"))
        other.update_state("r", lambda state: state)
        for attempt in writes(store, "r", "a"):
            attempt(lease=lease)
    other.save_event(make_event("r", 5, lane_id="a"))


@pytest.mark.one_in(2)
@on_every_leasing_pair
def test_while_the_run_is_leased_every_write_needs_it(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    store.save_events([make_event("r", 1, lane_id="a"), make_event("r", 2, lane_id="b")])
    with store.lease("r", owner="one") as lease:
        before = content(store)
        more: list[Callable[[], Any]] = [
            lambda: other.save_event(make_event("r", 1)),
            lambda: other.save_events(make_events("r", 2)),
            lambda: other.save_snapshot("r", make_state("r")),
            lambda: other.update_state("r", lambda state: state),
        ]
        for attempt in (*writes(other, "r", "a"), *writes(store, "r", "b"), *more):
            with pytest.raises(LeaseHeld, match="run 'r'"):
                attempt()
        assert content(store) == before
        for lane_id in ("a", "b"):
            for attempt in writes(store, "r", lane_id):
                attempt(lease=lease)
        store.update_state("r", lambda state: state, lease=lease)
    assert latest(store, "r") is not None


def test_of_several_runs_in_one_call_a_leased_one_is_refused(store: Store) -> None:
    with store.lease("s", owner="a"), pytest.raises(LeaseHeld):
        store.save_events([make_event("s", 1)])
    store.save_events([make_event("r", 1), make_event("s", 1)])
    assert seqs(store, "s") == [1]


def test_a_leased_run_is_read_by_everybody(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    with store.lease("r", owner="a") as lease:
        lease.append("r", make_events("r", 2), snapshot=make_state("r"))
        assert seqs(other) == [1, 2]
        assert other.recover("r").offset == 2
        assert [info.run_id for info in other.runs()] == ["r"]


def test_a_run_is_not_deleted_while_any_lease_of_it_is_in_force(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    store.save_events([make_event("r", 1), make_event("r", 2, lane_id="a")])
    store.save_snapshot("r", make_state("r"))
    for lane_id in (None, "a", "never used"):
        with store.lease("r", owner="one", lane_id=lane_id):
            before = content(store)
            for deleter in (store, other):
                with pytest.raises(LeaseHeld) as refused:
                    deleter.delete_run("r")
                assert refused.value.owner == "one"
            assert content(store) == before
    recovered = store.recover("r")
    assert (recovered.offset, recovered.events) == (2, []), "what this store knew of the run it knows still"
    assert other.delete_run("r")
    assert store.run_info("r") is None


# -- what a write under it minds besides -----------------------------------------------------------------


def test_a_lease_comes_before_keys_and_offsets(store: Store) -> None:
    """Whoever may not write is told that, whatever else is wrong or right."""
    store.append("r", [make_event("r", 1)], keys=["k"])
    former = carrying(abandoned(store, 60.0, lane_id="main"))
    with store.lease("r", owner="gone", lane_id="main") as lease:
        for options in ({"keys": ["k"]}, {"expected_offset": 7}):
            with pytest.raises(LeaseLost):
                store.append("r", [make_event("r", 1)], lease=former, **options)
            with pytest.raises(LeaseHeld):
                store.append("r", [make_event("r", 1)], **options)
        assert lease.append("r", [make_event("r", 1)], keys=["k"])[:2] == (1, 1)
        with pytest.raises(ConcurrencyConflict):
            lease.append("r", [make_event("r", 2)], expected_offset=7)
        assert not lease.lost


def test_a_lease_of_another_run_is_no_lease(store: Store) -> None:
    with store.lease("s", owner="a") as lease:
        with pytest.raises((InvalidRunId, LeaseLost)):
            store.append("r", make_events("r", 1), lease=lease)
        for write in (
            lambda: lease.append("r", make_events("r", 1)),
            lambda: lease.save_event(make_event("r", 1)),
            lambda: lease.save_snapshot("r", make_state("r")),
            lambda: lease.load_latest("r"),
            lambda: lease.list_events("r"),
        ):
            with pytest.raises(InvalidRunId):
                write()
        assert not lease.lost
    assert store.run_info("r") is None


def test_a_made_up_lease_is_lost(store: Store) -> None:
    made_up = carrying(LeaseGrant("r", None, "a", 2**60, "token", 30.0))
    for attempt in writes(store, "r", "a"):
        with pytest.raises(LeaseLost):
            attempt(lease=made_up)
    with store.lease("r", owner="a") as lease:
        for attempt in writes(store, "r", "a"):
            with pytest.raises(LeaseLost):
                attempt(lease=made_up)
        assert made_up.grant.token != lease.grant.token


def test_what_carries_no_lease_is_as_good_as_none(store: Store) -> None:
    """A Run that was opened without one."""
    store.append("r", make_events("r", 1), lease=carrying(None))
    with store.lease("r", owner="a"), pytest.raises(LeaseHeld):
        store.append("r", make_events("r", 1), lease=carrying(None))


@pytest.mark.parametrize(
    ("lane_id", "snapshot_lane"), [(None, None), ("main", None), ("a", "a")], ids=["run", "main lane", "a lane"]
)
def test_a_lease_is_a_checkpointer(store: Store, lane_id: str | None, snapshot_lane: str | None) -> None:
    """Its snapshots are the lane's own; the main lane's, and those of a leased run, are the run's."""
    lane = lane_id or "main"
    with store.lease("r", owner="one", lane_id=lane_id) as lease:
        assert isinstance(lease, Blocking if isinstance(store, Blocking) else Checkpointer)
        assert lease.load_latest("r") is None
        lease.save_event(make_event("r", 1, lane_id=lane))
        lease.save_events(make_events("r", 2, first=2, lane_id=lane))
        lease.save_snapshot("r", make_state("r", current_step=3))
        appended = lease.append(
            "r",
            make_events("r", 2, first=4, lane_id=lane),
            keys=["a", "b"],
            expected_offset=3,
            snapshot=make_state("r", current_step=5),
        )
        assert appended[:2] == (4, 5)
        assert [event.seq for event in lease.list_events("r", 1)] == [2, 3, 4, 5]
        assert cast("Any", lease.load_latest("r")).current_step == 5
    for other_lane in {None, "main", "a"} - {snapshot_lane}:
        assert store.load_snapshot("r", lane_id=other_lane) is None
    snapshot = store.load_snapshot("r", lane_id=snapshot_lane)
    assert snapshot is not None
    assert (snapshot.offset, snapshot.revision, snapshot.state.current_step) == (5, 2, 5)


def test_a_snapshot_that_another_saved_since_is_refused_under_a_lease_too(
    two_stores: tuple[Store, Store],
) -> None:
    store, other = two_stores

    def one_step_on(state: Any) -> Any:
        return make_state("r", current_step=state.current_step + 1)

    with store.lease("r", owner="one", lane_id="main") as lease:
        lease.append("r", make_events("r", 1), snapshot=make_state("r"))
        other.save_snapshot("r", make_state("r", current_step=9))  # the run's, which this lease leaves free
        with pytest.raises(ConcurrencyConflict):
            lease.append("r", make_events("r", 1, first=2), snapshot=make_state("r"))
        assert not lease.lost
        changed = store.update_state("r", one_step_on, lease=lease)
    assert changed.current_step == latest(other, "r").current_step == 10
    with pytest.raises(LeaseLost):
        store.update_state("r", one_step_on, lease=lease)
    assert latest(other, "r").current_step == 10
