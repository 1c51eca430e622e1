"""Commands are packed as redis-py packs them."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from runstream.stores.redis.connection.clients import open_async_client, open_client

COMMANDS: list[tuple[Any, ...]] = [
    ("EVALSHA", b"\0\r\n", 1, "ü", -7, 2.5, b""),
    (b"HMGET k", *range(2_000)),
    (b"GET", "x" * 9_999),
    (b"SET", "k", b"x" * 99_999),
    ("SCRIPT LOAD", b"return 1"),
]
BUFFERS = (b"SET", bytearray(b"k"), memoryview(b"v"))
"""redis-py before 7 does not pack them by hiredis."""


@pytest.mark.parametrize("opener", [open_client, open_async_client])
def test_commands_are_packed_as_redis_py_packs_them(opener: Any) -> None:
    ours: Any = opener("redis://example.invalid").connection_pool.connection_class()
    kind: Any = redis.Connection
    theirs = kind()
    for command in COMMANDS:
        assert b"".join(ours.pack_command(*command)) == b"".join(theirs.pack_command(*command))
    pieces = ours.pack_commands(COMMANDS)
    assert b"".join(pieces) == b"".join(theirs.pack_commands(COMMANDS))
    assert len(pieces) == 3  # the large one is copied no more
    assert packed_or_refused(ours, BUFFERS) == packed_or_refused(theirs, BUFFERS)
    with pytest.raises(redis.DataError):
        ours.pack_commands([(b"SET", "k", None)])


def packed_or_refused(connection: Any, command: tuple[Any, ...]) -> bytes | None:
    try:
        return b"".join(connection.pack_command(*command))
    except redis.DataError:
        return None
