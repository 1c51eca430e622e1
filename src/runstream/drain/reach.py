"""What a worker reaches out to: Redis, and the archives. It remembers which of them could not be reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from runstream.drain.stats import REDIS
from runstream.model.archive_records import Position
from runstream.model.errors import StoreUnavailable
from runstream.model.protocols import Sink
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.exchange import Operation

__all__ = ["Reach"]

T = TypeVar("T")


class Reach:
    """Redis and archives, for one worker; ``failed`` is the last that was away: a location, or ``"redis"``."""

    def __init__(self, hot: RedisCheckpointer[Any, Any]) -> None:
        self._hot = hot
        self.keys = hot.context.keys
        self.failed = REDIS

    @contextmanager
    def using(self, what: str) -> Iterator[None]:
        """Remember who it was that could not be reached."""
        try:
            yield
        except StoreUnavailable:
            self.failed = what
            raise

    def perform(self, operation: Operation[T]) -> T:
        """Run an operation on Redis."""
        with self.using(REDIS):
            return self._hot.perform(operation)

    def position(self, sink: Sink, run_id: str) -> Position | None:
        """How far an archive has a run."""
        with self.using(sink.location):
            return sink.position(run_id)
