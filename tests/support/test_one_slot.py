"""The watch over slots and keys sees what it is for."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest

from runstream.operations.operation import Exchange
from runstream.stores.redis.connection.driver import SyncDriver
from runstream.stores.redis.connection.single import SingleServerTransport
from tests.support.one_slot import take_faults


def test_a_command_that_touches_two_slots_is_seen() -> None:
    driver = SyncDriver(SingleServerTransport(fakeredis.FakeRedis()), 0)
    driver.exchange_once(Exchange([(b"EXISTS", "{ns:1}:a", "{ns:1}:b"), (b"GET", "{ns:2}:a")]))
    assert take_faults() == []
    driver.exchange_once(Exchange([(b"EXISTS", "{ns:1}:a", "{ns:2}:a")]))
    assert len(take_faults()) == 1


@pytest.mark.parametrize(
    ("called", "count"), [("'GET', KEYS[1]", 0), ("'GET', 'b'", 1), ("'DEL', KEYS[1], 'b'", 1)]
)
def test_a_key_that_a_script_does_not_declare_is_seen(called: str, count: int) -> None:
    raw: Any = fakeredis.FakeRedis()
    raw.eval(f"return redis.call({called})", 1, "a")
    assert len(take_faults()) == count
