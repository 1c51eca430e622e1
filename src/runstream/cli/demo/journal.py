"""A journal of what a store acknowledged, kept outside of every store, to check the stores against.

An agent adds a line per event after its append has returned. So a kill in between leaves an event that no
journal names, which is fine; an event that a journal names and no store has was lost.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from runstream.model.errors import ConfigurationError
from runstream.model.events import PAEvent
from runstream.model.results import Appended

__all__ = ["Acknowledged", "Journal", "JournalTail", "digest", "read_journal"]


class Acknowledged(NamedTuple):
    """One line: an event that a store said it keeps, and at which offset."""

    run_id: str
    offset: int
    lane_id: str
    seq: int
    step: int
    span_id: str
    digest: str


def digest(event: PAEvent) -> str:
    """A fingerprint of all that an event holds, types included: ``1``, ``1.0`` and ``True`` differ.

    It is made from ``repr``, not from this library's own encodings, so that these cannot err the same way.
    Sets, whose order differs between processes, do not occur in the example's events.
    """
    return hashlib.sha256(repr(event.to_dict()).encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Journal:
    """Appends to a journal; a context manager."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be opened as a journal: {error.strerror}") from error

    def note(self, appended: Appended, events: Sequence[PAEvent]) -> None:
        """Add a line per event of an append, all in one write: a kill leaves all of them or none."""
        lines = [
            Acknowledged(
                event.run_id,
                offset,
                event.lane_id,
                event.seq,
                event.payload.get("step", 0),
                event.span_id,
                digest(event),
            )
            for offset, event in enumerate(events, appended.first_offset)
        ]
        os.write(self._file, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


class JournalTail:
    """Follows a journal that another process writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new(self) -> Iterator[Acknowledged]:
        """The lines that were added since this was last asked; a line without its end is left for later."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._position += len(line)
                    yield Acknowledged(*json.loads(line))
        except FileNotFoundError:  # its writer has not begun
            return


def read_journal(path: Path) -> list[Acknowledged]:
    """All the lines of a journal."""
    return list(JournalTail(path).new())
