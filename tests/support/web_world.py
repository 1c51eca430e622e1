"""A run, its archive, and replicas of an app that show both."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

import runstream
import runstream.web
from runstream.web.path_ids import path_id
from tests.support.backends import Backend, ServerBackend
from tests.support.web_server import Frame, frames_of, serving

__all__ = ["STREAM", "World", "received", "world_of"]

STREAM = f"/runs/{path_id('r')}/stream"
"""The stream of run ``r``."""


class World:
    """A run that is written, drained and retired, and two replicas of an app that show it."""

    def __init__(self, url: str, place: Path, opened: ExitStack, *, sync: bool = False) -> None:
        archive = f"sqlite:{place}/archive.db"
        self.store = opened.enter_context(runstream.connect(url))
        self.archive: Any = opened.enter_context(runstream.connect(archive))
        self._connect: Callable[..., Any] = runstream.connect if sync else runstream.connect_async
        self.replicas = [
            opened.enter_context(serving(runstream.web.app(self._connect(url, archive=archive)))) for _ in range(2)
        ]

    def drain(self, **options: Any) -> None:
        """All that is due is archived, trimmed and, with ``retire_after_seconds``, retired."""
        runstream.DrainWorker(self.store, [self.archive], **options).drain_once()


@contextmanager
def world_of(kind: str, make_backend: Callable[[str], Backend], place: Path) -> Iterator[World]:
    """Two replicas over fakeredis or a real server, for asyncio or, of kind ``sync``, not."""
    url = f"fake:{uuid.uuid4().hex}"
    if kind == "valkey":
        backend = make_backend("valkey")
        assert isinstance(backend, ServerBackend)
        url = f"{backend.server.url}?namespace={backend.namespace}"
    with ExitStack() as opened:
        yield World(url, place, opened, sync=kind == "sync")


def received(client: httpx.Client, last_id: str, *, most: int, path: str = STREAM) -> list[Frame]:
    """What a browser receives that connects with this last id, and is cut off after so many."""
    found: list[Frame] = []
    with client.stream("GET", path, headers={"Last-Event-ID": last_id} if last_id else {}) as response:
        if response.status_code == 204:
            return found
        assert response.status_code == 200, response.read()
        for frame in frames_of(response):
            found.append(frame)
            if len(found) == most:
                break
    return found
