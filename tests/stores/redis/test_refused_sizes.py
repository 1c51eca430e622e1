"""P2: an append that the server refuses for its size is answered, and holds up nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import runstream
from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.stores.redis.append_batch import Sending
from runstream.stores.redis.connection.driver import SyncDriver
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.client.send import batch_of
from runstream.stores.redis.scripts.calls import append_call, event_call, revoke_call
from tests.support.operations import session_of
from tests.support.samples import make_event, make_state
from tests.support.servers import Server, needs_server

pytestmark = needs_server

LARGE = {"page": "z" * 3_000_000}


@pytest.fixture
def picky(server: Server, namespace: str) -> Iterator[Server]:
    """A server that takes no value of more than a mebibyte."""
    server.raw.config_set("proto-max-bulk-len", 2**20)
    yield server
    server.raw.config_set("proto-max-bulk-len", 512 * 2**20)
    for key in server.raw.scan_iter(f"{{{namespace}*"):
        server.raw.delete(key)


@pytest.fixture
def hot(picky: Server, namespace: str) -> Iterator[Any]:
    """A store that does not wait for long."""
    with runstream.connect(f"{picky.url}?namespace={namespace}&retry_seconds=0.1") as store:
        yield store


@pytest.mark.one_in(3)
def test_a_large_event_is_refused_and_the_run_goes_on(picky: Server, hot: Any) -> None:
    """Also where it is the first of its run; with the limit raised, the same call is applied, once."""
    large = make_event("r", 2, payload=LARGE)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=re.escape("more than 1048576 bytes (proto-max-bulk-len)")):
            hot.append("r", [large])
    assert hot.run_info("r") is None
    assert hot.append("r", [make_event("r", 1)]).first_offset == 1
    with pytest.raises(ConfigurationError, match="nothing was written"):
        hot.save_event(large)
    with pytest.raises(ConfigurationError, match="nothing was written"):
        hot.save_snapshot("r", make_state("r", data=LARGE))
    assert hot.append("r", [make_event("r", 3)]).first_offset == 2
    hot.save_snapshot("r", make_state("r"))
    picky.raw.config_set("proto-max-bulk-len", 2**23)
    assert hot.append("r", [large]).first_offset == 3
    assert [item.event.seq for item in hot.read("r")] == [1, 3, 2]
    assert hot.delete_run("r")


@pytest.mark.one_in(3)
def test_where_the_limit_is_hidden_the_message_says_what_may_be_wrong(picky: Server, namespace: str) -> None:
    """A user who may not read the configuration is not held up either."""
    picky.raw.acl_setuser("plain", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-config"])
    url = f"{picky.url}?namespace={namespace}&retry_seconds=0.1&username=plain&password=secret"
    with runstream.connect(url) as hot:
        hot.append("r", [make_event("r", 1)])
        with pytest.raises(StoreUnavailable, match="nothing was written; it, or a proxy before it") as caught:
            hot.append("r", [make_event("r", 2, payload=LARGE)])
        assert caught.value.resend is None
        assert hot.append("r", [make_event("r", 3)]).first_offset == 2
    picky.raw.acl_deluser("plain")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("is_first", [True, False])
def test_what_was_applied_before_the_limit_is_acknowledged(
    picky: Server, hot: Any, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """The reply was lost, and the server does not take the event again: what it keeps of it is the answer."""
    if not is_first:
        hot.append("r", [make_event("r", 1)])
    picky.raw.config_set("proto-max-bulk-len", 2**23)
    exchange_once = SyncDriver.exchange_once

    def lose(driver: SyncDriver, sent: Any) -> Any:
        exchange_once(driver, sent)
        raise StoreUnavailable("the reply was lost")

    large = [make_event("r", 2, payload=LARGE)]
    with monkeypatch.context() as patch:
        patch.setattr(SyncDriver, "exchange_once", lose)
        with pytest.raises(StoreUnavailable):
            hot.append("r", large)
    picky.raw.config_set("proto-max-bulk-len", 2**20)
    assert hot.append("r", large).first_offset == 1 + (not is_first)
    assert hot.append("r", [make_event("r", 3)]).first_offset == 2 + (not is_first)


@pytest.mark.one_in(3)
def test_a_large_event_that_could_not_be_revoked_at_once_holds_up_nothing_later(
    picky: Server, hot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was away; when it is back, whatever is sent next to the run finds out that it was not applied."""
    hot.append("r", [make_event("r", 1)])
    large = [make_event("r", 2, payload=LARGE)]

    def lose(driver: SyncDriver, sent: Any) -> Any:
        raise StoreUnavailable("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(SyncDriver, "exchange_once", lose)
        with pytest.raises(StoreUnavailable, match="it is away"):
            hot.append("r", large)
    assert hot.append("r", [make_event("r", 3)]).first_offset == 2
    with pytest.raises(ConfigurationError, match="nothing was written"):
        hot.append("r", large)
    assert [item.event.seq for item in hot.read("r")] == [1, 3]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("is_fast", [True, False])
def test_what_was_revoked_is_not_applied_however_late_it_comes(picky: Server, hot: Any, is_fast: bool) -> None:
    """Neither on the fast path nor on the other; of a run that is not there, nothing is made."""
    keys = namespace_of(hot).keys
    event = session_of(hot).codec.encode_event("r", make_event("r", 2))
    raw: Any = picky.raw
    for has_run in (False, True):
        if has_run:
            hot.append("r", [make_event("r", 1)])
            hot.append("r", [make_event("r", 2)])
        seen = session_of(hot).seen.get("r")
        sending = Sending(f"{int(has_run):018d}", 7, session_of(hot).server_clock.now(), seen)
        if is_fast:
            call = event_call(keys, "r", event, sending.producer, 7, sending.sent_at, seen)
        else:
            call = append_call(keys, batch_of("r", [event], expected_offset=2 * has_run), sending)

        def made(command: Any) -> Any:
            return raw.execute_command(*command)

        for script in (call[1], revoke_call(keys, "r", sending)[1]):
            picky.raw.script_load(script.source)
        assert made(revoke_call(keys, "r", sending)) == [b"revoked"]
        assert made(revoke_call(keys, "r", sending)) == [b"revoked"]
        assert made(call) == [b"revoked"]
        info = hot.run_info("r")
        assert (info is not None) == has_run
        assert info is None or info.last_offset == 2
    assert hot.append("r", [make_event("r", 3)]).first_offset == 3
    assert hot.append("r", [make_event("r", 4)]).first_offset == 4
