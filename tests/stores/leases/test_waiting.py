"""Waiting for a lease and renewing it, what cannot be asked for, and stores that require or refuse leases."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from runstream.model.errors import (
    ConfigurationError,
    EncodingError,
    InvalidRunId,
    LeaseHeld,
)
from runstream.model.identifiers import MAX_NAME_BYTES
from runstream.model.results import LeaseGrant
from runstream.stores.archive.jsonl import JSONLCheckpointer
from tests.stores.leases.lease_tools import LEASING, abandoned, carrying, seqs, writes
from tests.support.backends import Backend, Store
from tests.support.kinds import short
from tests.support.operations import operations_of, perform
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import DEADLINE_SECONDS

KINDS = [name for name in LEASING if "redis" not in name and "resp" not in name]  # one server of each facade


# -- waiting and renewing --------------------------------------------------------------------------------


@pytest.mark.one_in(4)
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


@pytest.mark.one_in(4)
def test_who_waits_gets_it_when_it_runs_out(store: Store) -> None:
    began = time.monotonic()
    abandoned(store, 0.4)
    with store.lease("r", owner="b", ttl=60.0, wait=DEADLINE_SECONDS):
        assert 0.3 < time.monotonic() - began < DEADLINE_SECONDS


@pytest.mark.one_in(2)
def test_who_waits_in_vain_is_told_by_whom_it_is_held(store: Store) -> None:
    with store.lease("r", owner="a", ttl=60.0):
        began = time.monotonic()
        with pytest.raises(LeaseHeld) as refused:
            store.lease("r", owner="b", wait=0.3)
        assert time.monotonic() - began >= 0.3
        assert refused.value.owner == "a"


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", short(KINDS))
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


@pytest.mark.one_in(3)
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
        lambda: perform(store, operations_of(store).renew_lease(grant.grant)),
        lambda: perform(store, operations_of(store).release_lease(grant.grant)),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigurationError, match="has no leases"):
            attempt()
    assert store.run_info("r") is None
    store.append("r", make_events("r", 1), lease=carrying(None))
    with store.open_run("r") as run:
        run.emit("agent.progress")
    assert seqs(store) == [1, 2]
