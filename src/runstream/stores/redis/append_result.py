"""The outcome of a batch: applied, refused, or unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from runstream.codec.chain import next_chain
from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.record import record_crc
from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.model.results import Appended, Cursor
from runstream.stores.redis.replies import parse_cursor, parse_offset

__all__ = ["Applied", "Outcome", "TooOld", "Written"]

Written: TypeAlias = tuple[Cursor, EncodedEvent]
"""An event that was acknowledged, and its cursor."""


class TooOld(StoreUnavailable):
    """Older than the deduplication window: the outcome is unknown, and the batch is never sent again."""

    is_final = True


class Applied(NamedTuple):
    """A batch that was applied: an :class:`~runstream.operations.interface.AppendResult`.

    Attributes:
        events: The events of the batch.
        former: The run's last cursor before the batch.
        last: The run's last cursor after it.
        known_cursors: The cursors of those events whose keys were known, by index in the batch: they were not
            written.
    """

    events: Sequence[EncodedEvent]
    former: bytes
    last: bytes
    known_cursors: Mapping[int, Cursor] = {}

    @property
    def appended(self) -> Appended:
        """The offsets of the batch's first and last event, and the last one's cursor."""
        first = self.known_cursors.get(0)
        first_offset = parse_offset(self.former) + 1 if first is None else first.offset
        last = self.known_cursors.get(len(self.events) - 1)
        if last is not None:
            return Appended(first_offset, last.offset, str(last))
        return Appended(first_offset, parse_offset(self.last), self.last.decode())

    @property
    def cursors(self) -> Sequence[Cursor]:
        """The cursor of each event: computed, as the server does, from the cursor before the batch on."""
        if len(self.events) == 1 and not self.known_cursors:
            return [parse_cursor(self.last)]
        cursors = []
        last = parse_cursor(self.former)
        for index, event in enumerate(self.events):
            if index in self.known_cursors:
                cursors.append(self.known_cursors[index])
            else:
                last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(event.record)))
                cursors.append(last)
        return cursors

    @property
    def known(self) -> frozenset[int]:
        """The indexes of the events whose keys were known."""
        return frozenset(self.known_cursors)

    @property
    def written(self) -> list[Written]:
        """The events that were written, with their cursors."""
        pairs = zip(self.cursors, self.events, strict=True)
        return [pair for index, pair in enumerate(pairs) if index not in self.known_cursors]


Outcome: TypeAlias = Applied | RunstreamError
"""Applied, or the error of a refusal, after which nothing was written; after TooOld that is unknown."""
