"""A run that holds a lease: nobody else writes its lane, and it gives the lease back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    InMemoryCheckpointer,
    LeaseHeld,
    LeaseLost,
    StoreUnavailable,
)
from runstream.model.results import LeaseGrant
from runstream.operations.operation import Operation
from tests.run.run_tools import ModelGaveUpError, events_of, kinds
from tests.support.backends import Backend, Store
from tests.support.handles import Appends, leave, open_run
from tests.support.samples import make_event, make_state


def test_nobody_else_writes_the_lane_of_a_run_that_holds_a_lease(two_leasing: tuple[Store, Store]) -> None:
    """Neither by opening it nor without a lease; other lanes go on, and leaving gives the lane free."""
    ours, theirs = two_leasing
    with open_run(ours, lease_ttl=30, owner="us") as run:
        assert run.grant == run.lease.grant
        assert (run.grant.owner, run.grant.lane_id, run.grant.ttl_seconds) == ("us", "main", 30)
        run.emit("one")
        with pytest.raises(LeaseHeld) as caught:
            open_run(theirs, lease_ttl=30, owner="them")
        assert caught.value.owner == "us"
        with pytest.raises(LeaseHeld):
            theirs.save_event(make_event("r", 9))
        other = open_run(theirs, lane_id="a", lease_ttl=30, owner="them")
        other.emit("two")
        other.checkpoint()
        run.emit("three")
    assert run.lease.lost
    assert kinds(ours) == ["one", "two", "three"]
    with open_run(theirs, lease_ttl=30, owner="them") as run:
        run.emit("four")


WRITES: dict[str, Callable[[Any], Any]] = {
    "emit": lambda run: run.emit("x"),
    "emit_many": lambda run: run.emit_many(["x", "y"]),
    "emit_delta": lambda run: run.emit_delta("x"),
    "checkpoint": lambda run: run.checkpoint(),
    "finish": lambda run: run.finish(),
    "fail": lambda run: run.fail("x"),
    "save_event": lambda run: run.save_event(make_event("r", 1, lane_id=run.lane_id)),
    "save_snapshot": lambda run: run.save_snapshot("r", make_state("r")),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("lane_id", ["main", "a"])
@pytest.mark.parametrize("place", ["memory", "fake", "async-fake"])
def test_all_that_a_run_writes_carries_its_lease(
    make_backend: Callable[[str], Backend], place: str, lane_id: str, write: str
) -> None:
    """A store that requires one takes it; when the same owner has opened the lane again, it does not."""
    store = make_backend(place).open(require_lease=True)
    with pytest.raises(ConfigurationError):
        WRITES[write](open_run(store, lane_id=lane_id))
    run = open_run(store, lane_id=lane_id, lease_ttl=30, owner="us")
    WRITES[write](run)
    again = open_run(store, lane_id=lane_id, lease_ttl=30, owner="us")
    before = (events_of(store), store.load_snapshot("r"), store.load_snapshot("r", lane_id=lane_id))
    with pytest.raises(LeaseLost):
        WRITES[write](run)
    assert run.lease.lost
    assert (events_of(store), store.load_snapshot("r"), store.load_snapshot("r", lane_id=lane_id)) == before
    run.close()
    WRITES[write](again)


def test_an_error_under_a_lease_that_has_passed_on_is_raised_with_a_note(leasing: Store) -> None:
    """It is not recorded: the lane is another's."""
    failure = ModelGaveUpError("late")
    run = open_run(leasing, lease_ttl=30, owner="us")
    taken = open_run(leasing, lease_ttl=30, owner="us")
    assert leave(run, failure) is failure
    assert "LeaseLost" in failure.__notes__[0]
    assert taken.emit("one").event.seq == 1


def test_a_run_without_an_owner_shares_its_lane_with_nobody(leasing: Store) -> None:
    """Its owner is a name of its own, and tells where it is."""
    with open_run(leasing, lease_ttl=30):
        with pytest.raises(LeaseHeld) as caught:
            open_run(leasing, lease_ttl=30)
        assert len(caught.value.owner.split(":")) == 3


def test_a_lane_is_waited_for(leasing: Store) -> None:
    """Until the one before has left it."""
    run = open_run(leasing, lease_ttl=30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_run, leasing, lease_ttl=30, wait=20)
        run.emit("one")
        run.close()
        assert waiting.result(20).emit("two").event.seq == 2


@pytest.mark.parametrize(
    "failure", [None, ModelGaveUpError("agent"), KeyboardInterrupt(), asyncio.CancelledError()]
)
def test_the_lease_is_given_back_however_a_run_is_left(leasing: Store, failure: BaseException | None) -> None:
    """Also if the error could not be recorded."""
    appends = Appends(leasing)
    run = open_run(leasing, lease_ttl=30)
    appends.fail(StoreUnavailable("no reply"))
    assert leave(run, failure) is failure
    open_run(leasing, lease_ttl=30).close()


def test_a_lease_that_cannot_be_given_back_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted on it; without an error it is raised."""
    store, failure = InMemoryCheckpointer(), ModelGaveUpError("first")
    for lane_id, error in (("a", failure), ("b", None)):
        run = store.open_run("r", lane_id=lane_id, lease_ttl=30)
        operations: Any = run._operations

        def fail(grant: LeaseGrant, release: Any = operations.release_lease) -> Operation[None]:
            yield from release(grant)
            raise ConfigurationError("the store is closed")

        monkeypatch.setattr(operations, "release_lease", fail)
        raised = leave(run, error)
        assert raised is failure if error else isinstance(raised, ConfigurationError)
    (note,) = failure.__notes__
    assert "the store is closed" in note


def test_a_store_without_leases_opens_runs_without(make_backend: Callable[[str], Backend]) -> None:
    store = make_backend("jsonl").open()
    with pytest.raises(ConfigurationError):
        open_run(store, lease_ttl=30)
    open_run(store).emit("one")
