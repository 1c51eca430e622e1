"""Where threads are kept: with langgraph's own savers, and with ours over every kind of store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from runstream import DrainWorker, connect
from runstream.integrations.langgraph import AsyncRunstreamSaver, RunstreamSaver

__all__ = ["Memory", "Ours", "Theirs", "opened"]


@contextmanager
def opened(opening: Any, runner: asyncio.Runner | None) -> Iterator[Any]:
    """What a context manager gives, also one to be entered with ``async with``."""
    if runner is None:
        with opening as found:
            yield found
        return
    found = runner.run(opening.__aenter__())
    try:
        yield found
    finally:
        runner.run(opening.__aexit__(None, None, None))


class Memory:
    """The saver that others are compared with."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self.runner = runner
        self._saver = InMemorySaver()

    @contextmanager
    def open(self) -> Iterator[Any]:
        yield self._saver

    def settle(self) -> None:
        """There is nothing to bring anywhere."""


class Theirs:
    """Langgraph's own SQLite saver."""

    def __init__(self, runner: asyncio.Runner | None, path: Path) -> None:
        self.runner = runner
        self._path = str(path)

    def open(self) -> Any:
        kind: Any = SqliteSaver if self.runner is None else AsyncSqliteSaver
        return opened(kind.from_conn_string(self._path), self.runner)

    def settle(self) -> None:
        """There is nothing to bring anywhere."""


class Ours:
    """Our saver over a store.

    Args:
        runner: What awaits the methods of the async one; None: it is the sync one.
        url: The store.
        archive: The archive beside it, into which everything goes, and out of Redis, whenever it is settled.
    """

    def __init__(self, runner: asyncio.Runner | None, url: str, archive: str | None = None) -> None:
        self.runner = runner
        self._url = url
        self._archive = archive

    def open(self) -> Any:
        kind: Any = RunstreamSaver if self.runner is None else AsyncRunstreamSaver
        return opened(kind.from_url(self._url, archive=self._archive), self.runner)

    def settle(self) -> None:
        """Archive all that is there, and take it out of Redis."""
        if self._archive is None:
            return
        hot: Any = connect(self._url)
        sink: Any = connect(self._archive)
        with hot, sink:
            DrainWorker(hot, [sink], trim="archived", retire_idle_seconds=0).drain_once()
