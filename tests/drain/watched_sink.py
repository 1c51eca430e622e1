"""What the tests of the worker write, and sinks that they watch or kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from runstream import (
    EventKind,
    PAEvent,
    create_event,
)
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch
from tests.support.archive_check import Archive
from tests.support.drain_tools import Hot
from tests.support.servers import DEADLINE_SECONDS


def emit(hot: Hot, run_id: str, count: int, *, lane_id: str = "main", first: int = 1) -> list[PAEvent]:
    """Append so many events to a lane, singly and in batches, and give them back: they are acknowledged."""
    events = [
        create_event(run_id, EventKind.TOOL_RESULT, lane_id=lane_id, seq=seq, raw=b"\x00\xff", pair=(seq, "x"))
        for seq in range(first, first + count)
    ]
    hot.save_events(events[: count // 2])
    for event in events[count // 2 :]:
        hot.save_event(event)
    return events


def hot_from(hot: Hot, run_id: str) -> int:
    info = hot.run_info(run_id)
    assert info is not None
    return info.first_hot


def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


class Watched:
    """A sink that passes everything on and lets a test look, interfere or break off."""

    def __init__(
        self,
        inner: Archive,
        *,
        before_write: Callable[[], None] = lambda: None,
        after_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.inner = inner
        self.sizes: list[int] = []
        self._before_write = before_write
        self._after_write = after_write

    @property
    def archive_id(self) -> str:
        return self.inner.archive_id

    @property
    def location(self) -> str:
        return self.inner.location

    def position(self, run_id: str) -> Position | None:
        return self.inner.position(run_id)

    def write(self, batches: Sequence[RunBatch]) -> None:
        self._before_write()
        self.sizes.append(sum(len(batch.entries) for batch in batches))
        self.inner.write(batches)
        self._after_write()

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        return self.inner.read_back(run_id, first, last)

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        return self.inner.read_back_snapshots(run_id)

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        return self.inner.quarantine(run_id)
