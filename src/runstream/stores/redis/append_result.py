"""What becomes of a batch that is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from runstream.codec.chain import next_chain
from runstream.codec.event_codec import EncodedEvent
from runstream.codec.record import record_crc
from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.model.results import Appended, Cursor, Placement
from runstream.stores.redis.replies import offset_of, place

__all__ = ["Applied", "Outcome", "TooOld", "Written"]

Written: TypeAlias = tuple[Cursor, EncodedEvent]
"""An event that was acknowledged, and its place."""


class TooOld(StoreUnavailable):
    """Whether it was applied can no longer be told: it is not sent again, however often its caller repeats it."""


class Applied(NamedTuple):
    """A batch that was applied: the run's last place before and after, and where known events lie."""

    events: Sequence[EncodedEvent]
    former: bytes
    last: bytes
    known: Mapping[int, Cursor] = {}
    """By the event's index in the batch."""

    @property
    def appended(self) -> Appended:
        """Where the batch landed."""
        first = self.known.get(0)
        first_offset = offset_of(self.former) + 1 if first is None else first.offset
        last = self.known.get(len(self.events) - 1)
        if last is not None:
            return Appended(first_offset, last.offset, str(last))
        return Appended(first_offset, offset_of(self.last), self.last.decode())

    @property
    def placement(self) -> Placement:
        """Where each event lies: the chain tells, from the place before the batch on."""
        if len(self.events) == 1 and not self.known:
            return Placement(self.appended, [place(self.last)], frozenset())
        cursors = []
        last = place(self.former)
        for index, event in enumerate(self.events):
            if index in self.known:
                cursors.append(self.known[index])
            else:
                last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(event.record)))
                cursors.append(last)
        return Placement(self.appended, cursors, frozenset(self.known))

    @property
    def written(self) -> list[Written]:
        """The events that were written, with their places."""
        cursors = self.placement.cursors
        pairs = zip(cursors, self.events, strict=True)
        return [pair for index, pair in enumerate(pairs) if index not in self.known]


Outcome: TypeAlias = Applied | RunstreamError
"""Applied, or what it was refused for: then nothing was written, unless it is TooOld to tell."""
