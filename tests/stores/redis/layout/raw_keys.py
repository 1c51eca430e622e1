"""The keys of a run and the entries in them, for tests that look at Redis itself."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runstream.codec.event_codec import Codec
from tests.support.backends import RedisBackend
from tests.support.samples import make_event
from tests.support.servers import Server


def tag_of(backend: RedisBackend, run_id: str) -> str:
    return f"{{{backend.namespace}:{zlib.crc32(run_id.encode()) % 16}}}"


def key_of(backend: RedisBackend, run_id: str, what: str) -> str:
    return f"{tag_of(backend, run_id)}:run:{run_id}:{what}"


def offsets(recorded: Iterator[Any]) -> list[int]:
    return [item.offset for item in recorded]


@contextmanager
def clean(server: Server, namespace: str) -> Iterator[None]:
    """Remove the keys of a namespace in the end."""
    yield
    for pattern in (f"{{{namespace}:*", f"{{{namespace}}}*"):
        if keys := list(server.raw.scan_iter(pattern, count=1000)):
            server.raw.delete(*keys)


def encoded(run_id: str, number: int) -> bytes:
    (event,) = Codec[Any, Any]().encode_events(run_id, [make_event(run_id, number, ts=1.5, span_id="span")])
    return event.record
