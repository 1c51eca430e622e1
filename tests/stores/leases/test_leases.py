"""What every store with leases promises: the sole right to write a lane or a run, for as long as it lasts."""

from __future__ import annotations

import time

import pytest

from runstream.model.errors import (
    LeaseHeld,
    LeaseLost,
)
from runstream.model.results import LeaseGrant
from tests.stores.leases.lease_tools import (
    abandoned,
    carrying,
    content,
    eventually,
    on_every_leasing_pair,
    seqs,
    writes,
)
from tests.support.backends import Store
from tests.support.samples import make_event, make_events


@pytest.mark.parametrize("lane_id", [None, "main", "", "ünï:%{} x"])
def test_a_lease_says_what_it_is(store: Store, lane_id: str | None) -> None:
    before = time.time()
    with store.lease("r", owner="agent ü 1", lane_id=lane_id, ttl=20.0) as lease:
        assert (lease.run_id, lease.lane_id, lease.owner) == ("r", lane_id, "agent ü 1")
        assert lease.epoch >= (before - 1) * 1e6, "at least the store's clock in microseconds"
        assert not lease.lost
        lease.check()
        assert lease.grant == LeaseGrant("r", lane_id, "agent ü 1", lease.epoch, lease.grant.token, 20.0)
    assert lease.lost


def test_a_lease_does_not_create_its_run(store: Store) -> None:
    with store.lease("r", owner="a"), store.lease("s", owner="a", lane_id="b"):
        assert store.run_info("r") is None
        assert store.list_runs() == []
        assert list(store.runs()) == []
        assert store.list_events("r") == []
        assert store.load_latest("r") is None
        assert store.delete_run("r") is False


def test_a_lease_from_before_its_run_holds_in_it(store: Store) -> None:
    with store.lease("r", owner="a", lane_id="main") as lease:
        with pytest.raises(LeaseHeld):
            store.save_event(make_event("r", 1))
        lease.save_event(make_event("r", 1))
        with pytest.raises(LeaseHeld):
            store.save_event(make_event("r", 2))
        lease.save_event(make_event("r", 2))
    store.save_event(make_event("r", 3))
    assert seqs(store) == [1, 2, 3]


def test_it_is_held_by_somebody_and_for_so_long(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    with store.lease("r", owner="agent ü 1", ttl=20.0):
        for attempt in (
            lambda: other.lease("r", owner="b"),
            lambda: other.save_event(make_event("r", 1)),
            lambda: store.save_event(make_event("r", 1)),
        ):
            with pytest.raises(LeaseHeld, match="agent ü 1") as refused:
                attempt()
            assert refused.value.owner == "agent ü 1"
            assert 10.0 < refused.value.expires_in <= 20.0
    with other.lease("r", owner="b"):
        pass


@on_every_leasing_pair
def test_what_is_given_back_is_free_at_once(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    lease = store.lease("r", owner="a", ttl=60.0)
    lease.append("r", make_events("r", 1))
    lease.release()
    lease.release()
    assert lease.lost
    with other.lease("r", owner="b") as next_one:
        assert next_one.epoch > lease.epoch
        next_one.check()
        lease.release()
        next_one.check()
    for attempt in (lease.check, lambda: lease.save_event(make_event("r", 2))):
        with pytest.raises(LeaseLost):
            attempt()
    assert seqs(store) == [1]


@pytest.mark.exhaustive
@pytest.mark.one_in(3)
def test_a_lease_that_nobody_renews_runs_out_and_passes_on(two_stores: tuple[Store, Store]) -> None:
    """What was sent under it before is there, what is sent afterwards is not applied."""
    store, other = two_stores
    former = carrying(abandoned(store, 1.0))
    store.append("r", make_events("r", 1), lease=former)
    with pytest.raises(LeaseHeld):
        other.lease("r", owner="b")
    taken = eventually(lambda: other.lease("r", owner="b"), LeaseHeld)
    with taken:
        assert taken.epoch > former.grant.epoch
        with pytest.raises(LeaseLost):
            store.append("r", make_events("r", 1, first=2), lease=former)
        taken.save_event(make_event("r", 3))
    assert seqs(other) == [1, 3]


@pytest.mark.one_in(8)
def test_a_lease_that_has_run_out_is_lost_even_if_nobody_took_it(store: Store) -> None:
    former = carrying(abandoned(store, 0.3, lane_id="a"))

    def write() -> None:
        while True:
            store.append("r", [make_event("r", 1, lane_id="a")], lease=former)

    with pytest.raises(LeaseLost, match="gone"):
        write()
    before = content(store)
    for attempt in writes(store, "r", "a"):
        with pytest.raises(LeaseLost):
            attempt(lease=former)
    assert content(store) == before
    store.save_event(make_event("r", 2, lane_id="a"))


def test_the_same_owner_gets_it_back_at_once(two_stores: tuple[Store, Store]) -> None:
    """A restarted worker does not wait for its own lease to run out; what it held before is lost."""
    store, restarted = two_stores
    for lane_id in ("a", None):
        with store.lease("r", owner="a", lane_id=lane_id, ttl=60.0) as former:
            former.save_event(make_event("r", 1, lane_id="a"))
            with restarted.lease("r", owner="a", lane_id=lane_id, ttl=60.0) as lease:
                assert lease.epoch > former.epoch
                before = content(store)
                with pytest.raises(LeaseLost):
                    former.save_event(make_event("r", 2, lane_id="a"))
                with pytest.raises(LeaseLost):
                    former.check()
                assert former.lost
                for attempt in writes(store, "r", "a"):
                    with pytest.raises(LeaseLost):
                        attempt(lease=former)
                assert content(store) == before
                former.release()
                lease.check()
                lease.save_event(make_event("r", 3, lane_id="a"))
    assert seqs(store) == [1, 3, 1, 3]


@on_every_leasing_pair
def test_a_former_lease_that_is_given_back_leaves_the_newer_one_alone(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    former = store.lease("r", owner="a")
    with other.lease("r", owner="a") as lease:
        former.release()
        lease.check()
        with pytest.raises(LeaseHeld):
            store.save_event(make_event("r", 1))


def test_the_epoch_rises_from_one_lease_to_the_next(store: Store) -> None:
    epochs = []
    for owner, lane_id in [("a", None), ("a", None), ("b", "x"), ("b", "y"), ("a", None), ("b", "x")]:
        with store.lease("r", owner=owner, lane_id=lane_id) as lease:
            epochs.append(lease.epoch)
    assert epochs == sorted(set(epochs))


# -- lanes and runs --------------------------------------------------------------------------------------


def test_lanes_are_leased_apart(two_stores: tuple[Store, Store]) -> None:
    """Agents in their own lanes of one run never wait for one another."""
    store, other = two_stores
    with store.lease("r", owner="one", lane_id="a") as one, other.lease("r", owner="two", lane_id="b") as two:
        one.save_event(make_event("r", 1, lane_id="a"))
        two.save_event(make_event("r", 2, lane_id="b"))
        one.check()
        two.check()
        store.save_event(make_event("r", 3))
        for lease, lane_id in ((one, "b"), (two, "a")):
            with pytest.raises(LeaseHeld):
                lease.save_event(make_event("r", 9, lane_id=lane_id))
        one.save_event(make_event("r", 4))  # a lane that nobody has leased
    assert seqs(store) == [1, 2, 3, 4]


@pytest.mark.parametrize("owner", ["a", "b"])
def test_a_run_and_its_lanes_exclude_each_other(store: Store, owner: str) -> None:
    """Whoever asks: of a run and its lane, not even the same owner has both."""
    with store.lease("r", owner="a", lane_id="x"):
        with pytest.raises(LeaseHeld, match="lane 'x'") as refused:
            store.lease("r", owner=owner)
        assert refused.value.owner == "a"
    with store.lease("r", owner="a"):
        with pytest.raises(LeaseHeld) as refused:
            store.lease("r", owner=owner, lane_id="x")
        assert refused.value.owner == "a"
    with store.lease("r", owner=owner, lane_id="x"):
        pass


def test_the_leases_of_one_run_say_nothing_of_another(store: Store) -> None:
    with store.lease("r", owner="a"), store.lease("s", owner="b", lane_id="main"):
        store.save_event(make_event("t", 1))
        with store.lease("t", owner="c"):
            pass
