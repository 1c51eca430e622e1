"""A server that has no memory left is read as any other, though it refuses to queue queries in a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from runstream.stores.redis.connection.single import _seen_at_once
from tests.support.backends import Backend
from tests.support.samples import make_events, make_state
from tests.support.servers import Server


def read_all(hot: Any) -> list[object]:
    """What all ways of reading give."""
    return [
        list(hot.read("r")),
        list(hot.read("r", reverse=True, limit=3)),
        list(hot.read("not there")),
        next(iter(hot.follow("r", 2))),
        hot.recover("r"),
        hot.load_snapshot("r"),
        hot.run_info("r"),
        list(hot.runs()),
    ]


@pytest.mark.parametrize("how", ["", "async-"], ids=["sync", "async"])
def test_a_full_server_is_read(how: str, server: Server, make_backend: Callable[[str], Backend]) -> None:
    backend = make_backend(how + server.name)
    hot = backend.open(retry_seconds=0)
    hot.append("r", make_events("r", 5), snapshot=make_state("r"))
    there = read_all(hot)
    server.raw.config_set("maxmemory", 1)
    try:
        assert read_all(hot) == there
        assert read_all(backend.open(retry_seconds=0)) == there
    finally:
        server.raw.config_set("maxmemory", 0)


def test_what_has_changed_between_two_looks_was_not_seen_at_once() -> None:
    refused = [ResponseError("WRONGTYPE"), ResponseError("WRONGTYPE")]
    assert _seen_at_once([1, {}, 1, {}]) == [1, {}]
    assert _seen_at_once([1, {}, 1, {"a": 1}]) is None
    assert _seen_at_once(refused) == refused[:1]
    assert _seen_at_once([refused[0], 1]) is None
