"""What every store with leases promises: the sole right to write a lane or a run, for as long as it lasts."""

from __future__ import annotations

import math
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    EncodingError,
    InvalidRunId,
    LeaseHeld,
    LeaseLost,
)
from runstream.model.identifiers import MAX_NAME_BYTES
from runstream.model.protocols import Checkpointer
from runstream.model.results import LeaseGrant
from runstream.run.store import LaneStore
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from runstream.stores.local.operations import LocalStore
from tests.support.backends import Backend, Blocking, SQLiteBackend, Store, latest
from tests.support.kinds import BACKENDS, SHARED
from tests.support.samples import make_event, make_events, make_state

DEADLINE_SECONDS = 30.0
LEASING = [name for name in BACKENDS if name != "jsonl"]
KINDS = [name for name in LEASING if "redis" not in name and "resp" not in name]  # one server of each facade


@pytest.fixture(params=LEASING)
def backend(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Backend:
    """A place with leases, of every kind that there is."""
    return make_backend(request.param)


@pytest.fixture
def store(backend: Backend) -> Store:
    """A store with leases, of every kind that there is."""
    return backend.open()


@pytest.fixture(params=[name for name in SHARED if name != "jsonl"])
def two_stores(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> tuple[Store, Store]:
    """Two writers with leases: stores over one place, of every kind that allows it."""
    shared = make_backend(request.param)
    return shared.open(), shared.open()


def seqs(store: Store, run_id: str = "r") -> list[int]:
    return [event.seq for event in store.list_events(run_id)]


def carrying(grant: Any) -> Any:
    """What carries a lease that nobody renews."""
    return SimpleNamespace(grant=grant)


def abandoned(store: Store, ttl: float, **options: Any) -> LeaseGrant:
    """A lease that is held by nobody any more: it is not renewed, and runs out."""
    grant: LeaseGrant = store.lease("r", owner="gone", ttl=ttl, **options).grant
    return grant


def eventually(attempt: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What this gives in the end: until then it raises one of these."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return attempt()
        except errors:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def writes(store: Store, run_id: str, lane_id: str) -> list[Callable[..., Any]]:
    """Every way to write to a lane, given ``lease=`` or not."""
    event = make_event(run_id, 7, lane_id=lane_id)
    state = make_state(run_id, current_step=7)
    return [
        lambda **lease: store.append(run_id, [event], **lease),
        lambda **lease: store.append(run_id, [event], keys=["k"], **lease),
        lambda **lease: store.append(run_id, [event], snapshot=state, lane_id=lane_id, **lease),
        lambda **lease: store.save_snapshot(run_id, state, lane_id=lane_id, **lease),
    ]


def content(store: Store, run_id: str = "r", lanes: Sequence[str | None] = (None, "main", "a", "b")) -> Any:
    """All that a run holds."""
    return (
        [item[:2] for item in store.read(run_id)],
        [store.load_snapshot(run_id, lane_id=lane) for lane in lanes],
        store.run_info(run_id),
    )


# -- taking it -------------------------------------------------------------------------------------------


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


# -- waiting and renewing --------------------------------------------------------------------------------


def test_who_waits_gets_it_when_it_is_given_back(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    asked = threading.Event()
    lease = store.lease("r", owner="a", ttl=60.0)
    found: list[Any] = []

    def wait() -> None:
        asked.set()
        with other.lease("r", owner="b", wait=DEADLINE_SECONDS) as waited:
            found.append((waited.owner, waited.epoch > lease.epoch))

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert asked.wait(DEADLINE_SECONDS)
    with pytest.raises(LeaseHeld):  # it is refused while the other one waits, and takes nothing from it
        other.lease("r", owner="c", wait=0.1)
    lease.release()
    waiter.join(DEADLINE_SECONDS)
    assert found == [("b", True)]


def test_who_waits_gets_it_when_it_runs_out(store: Store) -> None:
    began = time.monotonic()
    abandoned(store, 0.4)
    with store.lease("r", owner="b", ttl=60.0, wait=DEADLINE_SECONDS):
        assert 0.3 < time.monotonic() - began < DEADLINE_SECONDS


def test_who_waits_in_vain_is_told_by_whom_it_is_held(store: Store) -> None:
    with store.lease("r", owner="a", ttl=60.0):
        began = time.monotonic()
        with pytest.raises(LeaseHeld) as refused:
            store.lease("r", owner="b", wait=0.3)
        assert time.monotonic() - began >= 0.3
        assert refused.value.owner == "a"


@pytest.mark.parametrize("name", KINDS)
def test_a_lease_is_renewed_in_the_background(make_backend: Callable[[str], Backend], name: str) -> None:
    """Beyond twice its ttl nobody else has got it, though its holder did nothing."""
    store, ttl = make_backend(name).open(), 1.0
    with store.lease("r", owner="a", ttl=ttl, lane_id="main") as lease:
        end = time.monotonic() + 2.2 * ttl
        while time.monotonic() < end:
            with pytest.raises(LeaseHeld) as refused:
                store.lease("r", owner="b", lane_id="main", wait=0.1)
            assert 0.0 < refused.value.expires_in <= ttl
            assert not lease.lost
        lease.save_event(make_event("r", 1))
    assert seqs(store) == [1]


def test_asking_renews_it(store: Store) -> None:
    """``check`` is as good as what is done in the background: it lasts for its whole ttl from then on."""
    with store.lease("r", owner="a", ttl=60.0) as lease:

        def expires_in() -> float:
            with pytest.raises(LeaseHeld) as refused:
                store.lease("r", owner="b")
            return refused.value.expires_in

        first = expires_in()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while expires_in() > first - 0.1:
            assert time.monotonic() < deadline
        lease.check()
        assert expires_in() > first - 0.1


# -- what cannot be asked for ----------------------------------------------------------------------------

REFUSED: list[tuple[str, Any]] = [
    *[("ttl", ttl) for ttl in (0, -1, 0.001, 1e9, math.nan, math.inf, "30", None, True)],
    *[("wait", wait) for wait in (-0.1, math.inf, math.nan, "1", None)],
    *[("owner", owner) for owner in ("", None, 5, b"a")],
]


@pytest.mark.parametrize(("argument", "value"), REFUSED)
def test_what_cannot_be_asked_for_is_refused_by_its_name(store: Store, argument: str, value: Any) -> None:
    options: dict[str, Any] = {"owner": "a", argument: value}
    with pytest.raises(ConfigurationError, match=f"^{argument}="):
        store.lease("r", **options)
    with store.lease("r", owner="b"):
        pass


def test_names_are_of_at_most_512_bytes(store: Store) -> None:
    too_long = "x" * (MAX_NAME_BYTES + 1)
    for options in ({"owner": too_long}, {"owner": "a", "lane_id": too_long}, {"owner": "a", "lane_id": 5}):
        with pytest.raises(EncodingError):
            store.lease("r", **cast("Any", options))
    for run_id in ("", too_long, 5):
        with pytest.raises(InvalidRunId):
            store.lease(cast("Any", run_id), owner="a")
    with store.lease("r", owner=too_long[1:], lane_id=too_long[1:]) as lease:
        lease.save_event(make_event("r", 1, lane_id=too_long[1:]))


def test_a_store_can_require_a_lease(backend: Backend) -> None:
    store = backend.open(require_lease=True)
    more: list[Callable[..., Any]] = [
        lambda **_: store.save_event(make_event("r", 1)),
        lambda **_: store.save_events(make_events("r", 1)),
    ]
    others: list[Callable[..., Any]] = [
        lambda **lease: store.save_snapshot("r", make_state("r"), **lease),
        lambda **lease: store.update_state("r", lambda state: state, **lease),
    ]
    for attempt in (*writes(store, "r", "a"), *more, *others):
        with pytest.raises(ConfigurationError, match="lease"):
            attempt()
    assert store.run_info("r") is None
    with store.lease("r", owner="one", lane_id="a") as lease:
        for attempt in (*writes(store, "r", "a"), *others):
            attempt(lease=lease)
        for attempt in writes(store, "r", "b"):
            with pytest.raises(ConfigurationError, match="lane 'b'"):
                attempt(lease=lease)
        mixed = [make_event("r", 3, lane_id="a"), make_event("r", 4, lane_id="b")]
        with pytest.raises(ConfigurationError, match="lane 'b'"):
            lease.append("r", mixed)
        with pytest.raises(ConfigurationError, match="lease"):
            store.append("r", [make_event("r", 3, lane_id="a")], lease=carrying(None))
        assert len(seqs(store)) == 3
    with store.lease("r", owner="one") as lease:
        for attempt in (*writes(store, "r", "a"), *writes(store, "r", "b"), *others):
            attempt(lease=lease)
        lease.append("r", mixed)


def test_jsonl_has_no_leases(make_backend: Callable[[str], Backend]) -> None:
    store = cast("JSONLCheckpointer[Any, Any]", make_backend("jsonl").open())
    grant = carrying(LeaseGrant("r", None, "a", 1, "token", 30.0))
    attempts: list[Callable[..., Any]] = [
        *(lambda attempt=attempt: attempt(lease=grant) for attempt in writes(store, "r", "a")),
        lambda: store.update_state("r", lambda state: state, lease=grant),
        lambda: store.lease("r", owner="a"),
        lambda: store.lease("r", owner="a", lane_id="a", wait=60.0),
        lambda: store.open_run("r", lease_ttl=30.0),
        lambda: store.renew_lease(grant.grant),
        lambda: store.release_lease(grant.grant),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigurationError, match="has no leases"):
            attempt()
    assert store.run_info("r") is None
    store.append("r", make_events("r", 1), lease=carrying(None))
    with store.open_run("r") as run:
        run.emit("agent.progress")
    assert seqs(store) == [1, 2]


# -- by the clock of a local store -----------------------------------------------------------------------


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
def local(
    request: pytest.FixtureRequest, make_backend: Callable[[str], Backend], clock: Clock
) -> LocalStore[Any, Any]:
    """A local store with leases whose clock the test sets."""
    return cast("LocalStore[Any, Any]", make_backend(request.param).open(clock=clock))


def take(
    store: LocalStore[Any, Any], owner: str = "a", lane_id: str | None = "main", ttl: float = 10.0
) -> LeaseGrant:
    return store.take_lease("r", owner=owner, lane_id=lane_id, ttl=ttl)


def test_it_lasts_for_its_ttl_and_no_longer(local: LocalStore[Any, Any], clock: Clock) -> None:
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
        local.renew_lease(grant)
    assert local.delete_run("r")
    assert take(local, "b").epoch > grant.epoch


def test_a_renewed_one_lasts_for_its_ttl_from_then_on(local: LocalStore[Any, Any], clock: Clock) -> None:
    grant = take(local)
    for _ in range(5):
        clock.now += 9.0
        local.renew_lease(grant)
        with pytest.raises(LeaseHeld) as refused:
            take(local, "b")
        assert refused.value.expires_in == pytest.approx(10.0)
    clock.now += 10.0
    take(local, "b")
    local.release_lease(grant)
    with pytest.raises(LeaseHeld):
        take(local, "c")


def test_the_epoch_is_the_time_or_higher_than_the_last_one(local: LocalStore[Any, Any], clock: Clock) -> None:
    """Also if the clock was put back, and whatever became of the leases in between."""
    first = take(local)
    assert first.epoch == int(clock.now * 1e6)
    local.release_lease(first)
    clock.now -= 3600.0
    second = take(local, "b", None)
    assert second.epoch == first.epoch + 1
    local.release_lease(second)
    assert take(local, "c", "other").epoch == first.epoch + 2
    assert local.take_lease("s", owner="a", lane_id=None, ttl=1.0).epoch == int(clock.now * 1e6)


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
    with other._file.write():  # the file is locked
        writer.start()
        assert asked.wait(DEADLINE_SECONDS)
        eventually(lambda: _must(store._file._lock.acquire(blocking=False) is False, store), AssertionError)
        clock.now += 11.0
    writer.join(DEADLINE_SECONDS)
    assert outcomes == [LeaseLost]
    assert store.run_info("r") is None


def _must(condition: bool, store: SQLiteCheckpointer[Any, Any]) -> None:
    """The writer has come to where it waits; a lock that was got is given back."""
    if not condition:
        store._file._lock.release()
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
    stores = [cast("LaneStore[Any, Any]", store) for store in two_stores]

    def work(number: int) -> None:
        for _ in range(10):
            store = stores[number]
            with store.lease("r", owner=f"worker {number}", lane_id="main", wait=DEADLINE_SECONDS) as lease:
                last = store.last_seq("r", "main")
                lease.save_event(make_event("r", last + 1))
                lease.save_event(make_event("r", last + 2))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
    assert seqs(two_stores[0]) == list(range(1, 41))
