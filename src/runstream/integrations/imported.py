"""What an import tells of itself, whatever it imports from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from runstream.model.errors import CorruptRecordError

__all__ = ["Imported", "Notes", "Unreadable"]


class Unreadable(NamedTuple):
    """A line, row or file of a source that is no event, no state or no checkpoint, and why."""

    where: str
    reason: str
    raw: bytes = b""


@dataclass(slots=True)
class Imported:
    """The result of importing one run.

    Attributes:
        run_id: The run.
        events: How many events of the source read.
        there: How many of them the store had already.
        added: How many it has now besides; in a dry run, how many it would have.
        snapshots: How many states were saved.
        unreadable: How many lines, rows or files did not read.
        refused: Why nothing more was added, if that is so; else ''.
    """

    run_id: str
    events: int = 0
    there: int = 0
    added: int = 0
    snapshots: int = 0
    unreadable: int = 0
    refused: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether the store has all of it."""
        return not self.unreadable and not self.refused


class Notes:
    """Reports what was read, and what does not read.

    Args:
        strict: Raise CorruptRecordError at the first that does not read.
        on_progress: Called with how many more events are done.
        on_unreadable: Called with each line or row that does not read.
    """

    def __init__(
        self,
        strict: bool,
        on_progress: Callable[[int], None] = lambda _: None,
        on_unreadable: Callable[[Unreadable], None] = lambda _: None,
    ) -> None:
        self._strict = strict
        self._on_progress = on_progress
        self._on_unreadable = on_unreadable

    def take(self, found: Unreadable | None) -> None:
        """Report an event that was read (None), or what does not read."""
        if found is None:
            self._on_progress(1)
            return
        self._on_unreadable(found)
        if self._strict:
            message = f"{found.where}: {found.reason}; what came before it is imported"
            raise CorruptRecordError(message, run_id="", offset=0, raw=found.raw)
