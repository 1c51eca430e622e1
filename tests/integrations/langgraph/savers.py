"""Savers over every kind of store: alone, beside a drain that runs, and with everything archived at once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from runstream import DrainWorker, connect
from runstream.integrations.langgraph import AsyncRunstreamSaver, RunstreamSaver
from tests.support.backends import Backend, ServerBackend
from tests.support.kinds import REAL

__all__ = ["ALONE", "PLACES", "TIERED", "Places"]

ALONE = ["memory", "fake", "sqlite", "jsonl", *REAL]
TIERED = ["draining", "retiring"]
PLACES = [*ALONE, *TIERED]


class Places:
    """Where threads are kept, by name.

    Args:
        make_backend: Makes a place for runs.
        directory: Where files may lie.
    """

    def __init__(self, make_backend: Callable[[str], Backend], directory: Path) -> None:
        self._make_backend = make_backend
        self._directory = directory
        self._urls: dict[str, tuple[str, str | None]] = {}

    def urls(self, name: str) -> tuple[str, str | None]:
        """The URLs of a store, the same each time, and of its archive if it has one."""
        if name not in self._urls:
            self._urls[name] = self._new(name)
        return self._urls[name]

    def _new(self, name: str) -> tuple[str, str | None]:
        place = self._directory / name
        place.mkdir()
        if name in TIERED:
            return self.urls(next(iter(REAL), "fake"))[0], f"sqlite:{place}/archive.db"
        if name in REAL:
            backend = self._make_backend(name)
            assert isinstance(backend, ServerBackend)
            return f"{backend.server.url}?namespace={backend.namespace}", None
        return {"sqlite": f"sqlite:{place}/runs.db", "jsonl": f"jsonl:{place}"}.get(name, f"{name}:{place}"), None

    @contextmanager
    def sync(self, name: str) -> Iterator[RunstreamSaver]:
        """A saver over the store of that name."""
        with self._opening(name, RunstreamSaver) as opening, opening as saver:
            yield saver

    @asynccontextmanager
    async def asynchronous(self, name: str) -> AsyncIterator[AsyncRunstreamSaver]:
        """A saver for asyncio over the store of that name."""
        with self._opening(name, AsyncRunstreamSaver) as opening:
            async with opening as saver:
                yield saver

    @contextmanager
    def _opening(self, name: str, kind: Any) -> Iterator[Any]:
        """What opens such a saver, while what drains or retires beside it does so."""
        url, archive = self.urls(name)
        with ExitStack() as opened:
            if name == "retiring":
                kind = retiring(kind, opened, url, archive)
            if name == "draining":
                opened.enter_context(_draining(url, archive))
            yield kind.from_url(url, archive=archive)


def retiring(kind: Any, opened: ExitStack, url: str, archive: str | None) -> Any:
    """A kind of saver after each write of which everything is archived and leaves Redis."""
    hot, sink = opened.enter_context(_open(url)), opened.enter_context(_open(archive or ""))

    class Retiring(kind):  # type: ignore[misc]  # whichever it is
        async def aput(self, *args: Any) -> Any:
            result = await super().aput(*args)
            DrainWorker(hot, [sink], retire_idle_seconds=0).drain_once()
            return result

        async def aput_writes(self, *args: Any, **options: Any) -> None:
            await super().aput_writes(*args, **options)
            DrainWorker(hot, [sink], retire_idle_seconds=0).drain_once()

    return Retiring


@contextmanager
def _draining(url: str, archive: str | None) -> Iterator[None]:
    with _open(url) as hot, _open(archive or "") as sink:
        stop = threading.Event()
        worker = threading.Thread(target=DrainWorker(hot, [sink], trim="archived").run, args=(stop,))
        worker.start()
        try:
            yield
        finally:
            stop.set()
            worker.join()


def _open(url: str) -> Any:
    return connect(f"{url}?namespace=langgraph" if url.startswith("fake:") else url)
