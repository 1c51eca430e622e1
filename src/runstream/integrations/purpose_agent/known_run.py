"""What a subscription of a StoreBus knows of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["KnownRun"]


@dataclass
class KnownRun:
    """What a subscription knows of a run: how far it has read, and what it was given beyond that."""

    position: int | str | None = None
    offset: int = 0
    created_at: float | None = None
    given: set[tuple[int, Any]] = field(default_factory=set)
    """The offsets and span ids of these; a run that was deleted, and begun anew, has the offsets again."""
    offered: int = 0
    """How many events of this bus have no offset yet."""
    unsettled: int = 0
    """How many of these were not given here."""
    left_to: int = 0
    """The offset of the last of those that have one: until there the store gives what is emitted here."""
    settled: int = 0
    """The offset of the last event of this bus that has one."""
    settles: int = 0
    is_another: bool = False
    """Whether such an offset was no higher than the one before: the run was deleted, and begun anew."""

    def begin(self, position: int | str) -> None:
        """Read after this position."""
        self.position = position
        self.offset = position if isinstance(position, int) else int(position.partition("-")[0])

    def begin_anew(self) -> None:
        """Read another run of this name from its beginning."""
        self.begin(0)
        self.left_to, self.is_another = self.settled, False

    def settle(self, offset: int, span_id: Any, *, was_given: bool) -> None:
        """Learn the offset of the next event of this bus that has none."""
        self.is_another |= offset <= max(self.settled, self.offset)
        self.offered, self.settled, self.settles = self.offered - 1, offset, self.settles + 1
        if was_given:
            self.given.add((offset, span_id))
        else:
            self.unsettled -= 1
            self.left_to = max(self.left_to, offset)

    def forget(self, *, was_given: bool) -> None:
        """Learn that an event of this bus that has no offset will have none."""
        self.offered -= 1
        self.unsettled -= not was_given

    @property
    def is_behind(self) -> bool:
        """Whether the store has, or will have, what was offered and not given."""
        return self.unsettled > 0 or self.left_to > self.offset or self.is_another

    @property
    def is_whole(self) -> bool:
        """Whether the store has, and this has read, all that was offered."""
        return not (self.offered or self.given or self.is_behind)
