"""Sources of an import: runs in files, which are read and never changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Self, TypeAlias

from runstream.codec.foreign_json import load_foreign_json
from runstream.codec.lossless_json import load_object
from runstream.integrations.imported import Unreadable

__all__ = ["Item", "Source", "SourceEvent", "SourceRun", "SourceSnapshot", "event_in", "object_in"]


class SourceEvent(NamedTuple):
    """An event as a source has it, ``where`` it stands there (for people), and its caller's key if it has one."""

    where: str
    fields: dict[str, Any]
    key: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields: this is an event as stores take them."""
        return self.fields


class SourceSnapshot(NamedTuple):
    """A state as a source has it: of the run, with ``lane_id`` None, or of a lane.

    ``saved_at`` is when that was, Unix time in seconds, 0.0 where nobody knows. ``is_older``: events came after
    it that give the run another status.
    """

    where: str
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
    is_archive: bool

    @abstractmethod
    def runs(self) -> Iterator[SourceRun]:
        """Read the runs."""

    @abstractmethod
    def count_events(self) -> int:
        """Count the events, roughly."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def event_in(where: str, data: bytes | None, *, is_ours: bool, key: str | None = None) -> Item:
    """The event in a line or row; ``is_ours``: if its values have tags."""
    found = object_in(where, data, is_ours=is_ours)
    if isinstance(found, Unreadable):
        return found
    if not is_ours:
        found.setdefault("ts", 0.0)  # as in an archive that takes such an event in
    return SourceEvent(where, found, key)


def object_in(where: str, data: bytes | None, *, is_ours: bool) -> dict[str, Any] | Unreadable:
    """The JSON object in a line, row or file; ``is_ours``: if its values have tags."""
    try:
        text = (data or b"").decode()
        return load_object(text) if is_ours else load_foreign_json(text)
    except ValueError as error:
        return Unreadable(where, str(error), data or b"")
