"""Leases of the stores on one machine, by a clock that the test sets."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from runstream.model.errors import (
    ConfigurationError,
    LeaseHeld,
    LeaseLost,
)
from runstream.model.results import LeaseGrant
from runstream.operations.arguments import LeaseRequest
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from tests.stores.leases.lease_tools import carrying, eventually, seqs
from tests.support.backends import Backend, SQLiteBackend, Store
from tests.support.operations import last_seq, operations_of, perform
from tests.support.samples import make_event, make_events
from tests.support.servers import DEADLINE_SECONDS


class Clock:
    """A clock that is set by hand: Unix time in seconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def local(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend], clock: Clock) -> Store:
    """A local store with leases whose clock the test sets."""
    return make_backend(request.param).open(clock=clock)


def take(store: Store, owner: str = "a", lane_id: str | None = "main", ttl: float = 10.0) -> LeaseGrant:
    return take_lease(store, LeaseRequest("r", owner, lane_id, ttl))


def take_lease(store: Store, request: LeaseRequest) -> LeaseGrant:
    grant: LeaseGrant = perform(store, operations_of(store).take_lease(request))
    return grant


def test_it_lasts_for_its_ttl_and_no_longer(local: Store, clock: Clock) -> None:
    grant = take(local)
    clock.now += 9.5
    local.append("r", make_events("r", 1), lease=carrying(grant))
    for attempt in (lambda: take(local, "b"), lambda: local.delete_run("r")):
        with pytest.raises(LeaseHeld) as refused:
            attempt()
        assert refused.value.expires_in == pytest.approx(0.5)
    clock.now += 0.5
    with pytest.raises(LeaseLost):
        local.append("r", make_events("r", 1), lease=carrying(grant))
    with pytest.raises(LeaseLost):
        perform(local, operations_of(local).renew_lease(grant))
    assert local.delete_run("r")
    assert take(local, "b").epoch > grant.epoch


def test_a_renewed_one_lasts_for_its_ttl_from_then_on(local: Store, clock: Clock) -> None:
    grant = take(local)
    for _ in range(5):
        clock.now += 9.0
        perform(local, operations_of(local).renew_lease(grant))
        with pytest.raises(LeaseHeld) as refused:
            take(local, "b")
        assert refused.value.expires_in == pytest.approx(10.0)
    clock.now += 10.0
    take(local, "b")
    perform(local, operations_of(local).release_lease(grant))
    with pytest.raises(LeaseHeld):
        take(local, "c")


def test_the_epoch_is_the_time_or_higher_than_the_last_one(local: Store, clock: Clock) -> None:
    """Also if the clock was put back, and whatever became of the leases in between."""
    first = take(local)
    assert first.epoch == int(clock.now * 1e6)
    perform(local, operations_of(local).release_lease(first))
    clock.now -= 3600.0
    second = take(local, "b", None)
    assert second.epoch == first.epoch + 1
    perform(local, operations_of(local).release_lease(second))
    assert take(local, "c", "other").epoch == first.epoch + 2
    assert take_lease(local, LeaseRequest("s", "a", None, 1.0)).epoch == int(clock.now * 1e6)


def test_a_lease_that_runs_out_while_its_writer_waits_for_the_file_is_lost(
    make_backend: Callable[[str], Backend], clock: Clock
) -> None:
    """What counts is the time at which it would be written, not the time at which it was asked for."""
    backend = make_backend("sqlite")
    store = cast("SQLiteCheckpointer[Any, Any]", backend.open(clock=clock))
    other = cast("SQLiteCheckpointer[Any, Any]", backend.open())
    grant = take(store)
    outcomes: list[type[Exception]] = []
    asked = threading.Event()

    def write() -> None:
        asked.set()
        try:
            store.append("r", make_events("r", 1), lease=carrying(grant))
        except LeaseLost as error:
            outcomes.append(type(error))

    writer = threading.Thread(target=write)
    with operations_of(other)._file.write():  # the file is locked
        writer.start()
        assert asked.wait(DEADLINE_SECONDS)
        eventually(
            lambda: _must(operations_of(store)._file._lock.acquire(blocking=False) is False, store), AssertionError
        )
        clock.now += 11.0
    writer.join(DEADLINE_SECONDS)
    assert outcomes == [LeaseLost]
    assert store.run_info("r") is None


def _must(condition: bool, store: SQLiteCheckpointer[Any, Any]) -> None:
    """The writer has come to where it waits; a lock that was got is given back."""
    if not condition:
        operations_of(store)._file._lock.release()
    assert condition


# -- other processes -------------------------------------------------------------------------------------


@pytest.fixture
def file_backend(make_backend: Callable[[str], Backend]) -> SQLiteBackend:
    backend = make_backend("sqlite")
    assert isinstance(backend, SQLiteBackend)
    return backend


def test_a_store_that_was_pickled_minds_the_leases_of_the_file(file_backend: SQLiteBackend) -> None:
    store = file_backend.open(require_lease=True)
    with store.lease("r", owner="a") as lease, pickle.loads(pickle.dumps(store)) as copy:
        with pytest.raises(ConfigurationError, match="require"):
            copy.save_event(make_event("r", 1))
        with pytest.raises(LeaseHeld):
            copy.lease("r", owner="b")
        copy.append("r", make_events("r", 1), lease=lease)
        lease.check()
    assert seqs(store) == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the lease has a thread
def test_a_fork_has_no_part_in_a_lease_and_does_not_give_it_back(file_backend: SQLiteBackend) -> None:
    store = file_backend.open()
    with store.lease("r", owner="a", ttl=60.0) as lease:
        child = os.fork()
        if child == 0:
            signal.alarm(int(DEADLINE_SECONDS))
            code = 1
            try:
                try:
                    store.save_event(make_event("r", 1))
                except LeaseHeld:
                    try:
                        lease.save_event(make_event("r", 2))
                    except LeaseLost:
                        lease.release()
                        code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(LeaseHeld):
            store.save_event(make_event("r", 3))
        lease.check()
        lease.save_event(make_event("r", 4))
    assert seqs(store) == [4]


def test_what_is_written_under_a_lease_is_seen_by_whoever_takes_it_next(two_stores: tuple[Store, Store]) -> None:
    """Two workers take turns for a while: each goes on where the other left off."""

    def work(number: int) -> None:
        for _ in range(10):
            store = two_stores[number]
            with store.lease("r", owner=f"worker {number}", lane_id="main", wait=DEADLINE_SECONDS) as lease:
                last = last_seq(store, "r", "main")
                lease.save_event(make_event("r", last + 1))
                lease.save_event(make_event("r", last + 2))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
    assert seqs(two_stores[0]) == list(range(1, 41))
