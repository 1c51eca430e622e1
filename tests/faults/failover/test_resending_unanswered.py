"""P2: what a store puts back without a reply is there once, however it goes on to put back the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from runstream import StoreUnavailable, connect
from runstream.testing import Fault, FaultProxy
from tests.faults.failover.failover_tools import LONG_SECONDS, Hot, spans_of, until_taken
from tests.support.operations import session_of
from tests.support.samples import make_event
from tests.support.servers import Pair, needs_server

pytestmark = needs_server


@pytest.fixture
def proxy(pair: Pair, opened: ExitStack) -> FaultProxy:
    """The way to the server, on which replies are lost."""
    return opened.enter_context(FaultProxy(pair.url))


@pytest.fixture
def giver(proxy: FaultProxy, opened: ExitStack) -> Any:
    """A store that puts back what was lost, and does not try again by itself."""
    return opened.enter_context(connect(proxy.url, partitions=1, retry_seconds=0, resend_lost=True))


def lose(pair: Pair, giver: Any) -> list[Any]:
    """Events of two lanes, of which the server loses the latter two, one of each lane."""
    events = [make_event("r", seq, lane_id=lane_id) for seq in (1, 2) for lane_id in ("a", "b")]
    giver.append("r", events[:2])
    with pair.losing():
        giver.append("r", events[2:])
    until_taken(lambda: giver.append("another", [make_event("another")]))  # so that the server has the script
    return events


def put_back_without_reply(proxy: FaultProxy, giver: Any, at: int) -> None:
    """Append an event, and lose the reply to one of the calls that go before it."""
    proxy.reset()
    proxy.arm(Fault.DROP_REPLY, at=at, commands=["EVALSHA"])
    with pytest.raises(StoreUnavailable):
        giver.append("r", [make_event("r", lane_id="c")])
    assert proxy.struck
    proxy.disarm()
    assert session_of(giver).recent.lost("r")


def test_what_was_put_back_at_once_is_not_put_back_by_lane(
    pair: Pair, proxy: FaultProxy, giver: Any, open_hot: Callable[..., Hot]
) -> None:
    """The next append is under a lease, so that what was lost is sent lane by lane."""
    events, last = lose(pair, giver), make_event("r", 3, lane_id="a")
    put_back_without_reply(proxy, giver, at=2)
    with giver.lease("r", owner="me", lane_id="a", ttl=LONG_SECONDS) as lease:
        lease.append("r", [last])
    assert spans_of(open_hot().list_events("r")) == spans_of([*events, last])


def test_what_was_put_back_by_lane_is_not_put_back_at_once(
    pair: Pair, proxy: FaultProxy, giver: Any, open_hot: Callable[..., Hot]
) -> None:
    """Another's lease kept one lane out, and has ended since."""
    events, last = lose(pair, giver), make_event("r", 3, lane_id="a")
    with open_hot().lease("r", owner="another", lane_id="a", ttl=LONG_SECONDS):
        put_back_without_reply(proxy, giver, at=4)
    giver.append("r", [last])
    there = spans_of(open_hot().list_events("r"))
    assert there[:2] == spans_of(events[:2])
    assert sorted(there) == sorted(spans_of([*events, last]))
