"""What is imported: runs in files that are read and never changed, whoever wrote them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Self, TypeAlias

__all__ = ["Item", "Source", "SourceEvent", "SourceRun", "SourceSnapshot", "Unreadable"]


class SourceEvent(NamedTuple):
    """An event as a source has it, its ``place`` there for people, and its caller's key if it has one."""

    place: str
    fields: dict[str, Any]
    key: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields: this is an event as stores take them."""
        return self.fields


class Unreadable(NamedTuple):
    """A line, row or file of a source that is no event, or no state, and why."""

    place: str
    reason: str
    raw: bytes = b""


class SourceSnapshot(NamedTuple):
    """A state as a source has it: of the run, with ``lane_id`` None, or of a lane.

    ``saved_at`` is when that was, Unix time in seconds, 0.0 where nobody knows. ``is_older``: events came after
    it that say how the run stands.
    """

    place: str
    lane_id: str | None
    fields: dict[str, Any]
    saved_at: float = 0.0
    is_older: bool = False


Item: TypeAlias = SourceEvent | Unreadable


class SourceRun(ABC):
    """One run of a source."""

    run_id: str

    @abstractmethod
    def events(self) -> Iterator[Item]:
        """Its events in the order in which they were written, with what does not read in between."""

    @abstractmethod
    def snapshots(self) -> Iterator[SourceSnapshot | Unreadable]:
        """Its latest states, the run's own and those of lanes. To be asked for after the events."""


class Source(ABC):
    """Where runs are imported from; a context manager that closes it."""

    location: str

    @abstractmethod
    def runs(self) -> Iterator[SourceRun]:
        """Its runs."""

    @abstractmethod
    def count_events(self) -> int:
        """How many events it has, about."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
