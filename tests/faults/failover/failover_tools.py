"""Stores over a primary and a replica, and what they raise when writes were lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    RedisCheckpointer,
    RunStore,
    StoreUnavailable,
)
from tests.support.kinds import REAL
from tests.support.servers import Node, eventually

Hot = RedisCheckpointer[Any, Any]
LONG_SECONDS = 600.0

on_every_pair = pytest.mark.parametrize("pair", REAL, indirect=True)
"""For a test that is the short form of a promise on every real server: none is left out by default."""


def spans_of(events: Iterable[Any]) -> list[str]:
    """What tells the events apart."""
    return [event.span_id for event in events]


def spans(store: RunStore[Any, Any]) -> list[str]:
    """The events of run r, by what tells them apart."""
    return spans_of(store.list_events("r"))


def keep_files(server: Node) -> None:
    """Let a server keep an append-only file, and wait until it has its first one: before that none tells of it."""
    server.raw.config_set("appendonly", "yes")

    def is_written() -> bool:
        told = server.raw.info("persistence")
        return not (told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"])

    eventually(is_written)


def until_taken(call: Callable[[], Any]) -> Any:
    """Repeat a call until it gets its reply."""
    for _ in range(50):
        try:
            return call()
        except StoreUnavailable:
            continue
    raise AssertionError("it never got a reply")


def assert_lost(call: Callable[[], Any], last_seen: int, last_present: int) -> None:
    """The call raises AcknowledgedWritesLost with these offsets of run r."""
    with pytest.raises(AcknowledgedWritesLost) as caught:
        call()
    error = caught.value
    assert (error.run_id, error.last_seen, error.last_present) == ("r", last_seen, last_present)
