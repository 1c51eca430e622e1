"""P6: no failover brings a lease back to life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runstream import LeaseLost
from tests.faults.failover.failover_tools import LONG_SECONDS, Hot, on_every_pair, spans
from tests.support.samples import make_event, make_state
from tests.support.servers import Pair, needs_server

pytestmark = needs_server


@pytest.fixture(params=["a", None], ids=["lane", "run"])
def lane_id(request: pytest.FixtureRequest) -> str | None:
    """What is leased: a lane, or the whole run."""
    return request.param  # type: ignore[no-any-return]  # pytest does not say what its parameters are


def assert_dead(lease: Any, store: Hot) -> None:
    """Nothing is applied under this lease."""
    lane_id = lease.lane_id or "main"
    before = len(store.list_events("r"))
    for call in (
        lambda: lease.save_event(make_event("r", lane_id=lane_id)),
        lambda: lease.save_snapshot("r", make_state("r")),
        lease.check,
    ):
        with pytest.raises(LeaseLost):
            call()
    assert lease.lost
    assert len(store.list_events("r")) == before


@on_every_pair
def test_a_lease_does_not_survive_a_failover(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], lane_id: str | None
) -> None:
    """Although its time has not passed and the replica knew it: another one may have followed it meanwhile."""
    lease = hot.lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS)
    lease.save_event(make_event("r", lane_id=lane_id or "main"))
    with pair.losing():
        pass
    other = open_hot()
    assert_dead(lease, other)
    other.save_event(make_event("r", lane_id=lane_id or "main"))  # nor is it in anybody's way
    with other.lease("r", owner="b", lane_id=lane_id, ttl=LONG_SECONDS) as new:
        assert new.epoch > lease.epoch
        new.save_event(make_event("r", lane_id=lane_id or "main"))
        with pytest.raises(LeaseLost):
            lease.save_event(make_event("r", lane_id=lane_id or "main"))
    assert len(spans(other)) == 3


def test_a_lease_that_was_superseded_does_not_come_back(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], lane_id: str | None
) -> None:
    """The replica knew the former lease and not the latter: it is neither the one nor the other."""
    former = hot.lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS)
    former.save_event(make_event("r", lane_id=lane_id or "main"))
    with pair.losing():
        latter = open_hot().lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS)
        latter.save_event(make_event("r", lane_id=lane_id or "main"))
    other = open_hot()
    assert_dead(former, other)
    assert_dead(latter, other)
    with other.lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS) as new:
        assert new.epoch > latter.epoch > former.epoch
        new.save_event(make_event("r", lane_id=lane_id or "main"))
    assert len(spans(other)) == 2


def test_a_lease_that_was_lost_is_no_lease(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot], lane_id: str | None
) -> None:
    """The replica never heard of it, nor, perhaps, of its run."""
    with pair.losing():
        lease = hot.lease("r", owner="a", lane_id=lane_id, ttl=LONG_SECONDS)
        lease.save_event(make_event("r", lane_id=lane_id or "main"))
    assert_dead(lease, open_hot())


def test_a_lease_given_back_to_the_promoted_one_harms_nobody(
    pair: Pair, hot: Hot, open_hot: Callable[..., Hot]
) -> None:
    """Releasing what a failover has ended leaves the lease alone that came after it."""
    lease = hot.lease("r", owner="a", ttl=LONG_SECONDS)
    with pair.losing():
        pass
    with open_hot().lease("r", owner="b", ttl=LONG_SECONDS) as new:
        lease.release()
        new.save_event(make_event("r"))
        new.check()
