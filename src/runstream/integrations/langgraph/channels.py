"""Channels in parts: which part of a value each event has, so that a long list is not written again. Pure.

A list, as that of the messages of a chat, is kept by element. The event of a checkpoint has the elements that are
new; the others lie in earlier events, whose offsets it names. Many small parts become one that is written again
whole: parts of about one size, once there are eight of them. So a list of n elements lies in a few times log n
parts, each element is written about log n times, with 8 as the base, and the history of a chat of n turns grows as
n log n, not as the square of n.

A part of a list is one msgpack array, where its elements are msgpack: no layer below looks at each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runstream.integrations.langgraph.values import (
    Glances,
    Stored,
    Value,
    Values,
    elements,
    in_array,
    joined,
    same_values,
    size_of,
)

__all__ = ["HERE", "Channel", "Part", "Table", "located", "merged", "read_channel", "split", "table_of"]

HERE = 0
"""Stands for the offset of the very event that names it: no event has it."""

Table = Mapping[str, Any]
"""Where the values of channels lie, as events have it: by channel an offset, or a list of offset and count."""

_FEW = 8
_EIGHTS = 3  # bits
_MOST_BYTES = 2**20  # of a part that several become: an event has a limit
_ENTRY_BYTES = 60  # what Python holds for bytes beside them, about


@dataclass(slots=True)
class Part:
    """What one event has of a channel.

    Attributes:
        offset: The event's offset; HERE for one that is to be written.
        count: How many elements of a list it has; 1 for a value that is no list.
        stored: The elements, or the value, as the event has it.
        size: How many bytes it has.
    """

    offset: int
    count: int
    stored: Stored
    size: int

    def at(self, offset: int) -> Part:
        """The same in the event at an offset."""
        return Part(offset, self.count, self.stored, self.size)


@dataclass(slots=True)
class Channel:
    """The value of a channel.

    Attributes:
        is_list: Whether it is a list, kept by element.
        parts: The parts, in order.
        glances: What its elements, or the value, are told by; None where it was loaded.
    """

    is_list: bool
    parts: Sequence[Part]
    glances: Glances | None = field(default=None, repr=False, compare=False)

    @property
    def held_bytes(self) -> int:
        """What Python holds for it, about."""
        return sum(2 * part.size + _ENTRY_BYTES * part.count for part in self.parts)

    @property
    def fresh(self) -> Part | None:
        """The part that is to be written: there is one at most."""
        return next((part for part in self.parts if part.offset == HERE), None)

    def plain(self, values: Values) -> Sequence[Value]:
        """The elements of all parts, or the value, before they were encrypted."""
        return [values.opened(each) for part in self.parts for each in self._elements(part)]

    def load(self, values: Values) -> Any:
        """The value itself, a new object each time."""
        if self.is_list and values.is_joined:
            arrays = [part.stored for part in self.parts if isinstance(part.stored, bytes)]
            if len(arrays) == len(self.parts):
                return values.load_arrays(arrays)
        found = [values.load(value) for part in self.parts for value in self._elements(part)]
        return found if self.is_list else found[0]

    def written_at(self, offset: int) -> Channel:
        """The same once the event that has the new part is written at an offset."""
        if self.fresh is None:
            return self
        parts = [part if part.offset != HERE else part.at(offset) for part in self.parts]
        return Channel(self.is_list, parts, self.glances)

    def _elements(self, part: Part) -> Sequence[Value]:
        return elements(part.stored) if self.is_list else [part.stored]


def split(former: Channel | None, obj: Any, values: Values) -> Channel:
    """The value of a channel in parts, as many as can be of those that are written already.

    Args:
        former: The channel as it was; None: it is new.
        obj: Its value now.
        values: Makes values of objects.
    """
    is_list = type(obj) is list and bool(obj)
    objects = obj if is_list else [obj]
    glances = values.glances(objects)
    kept: list[Part] = []
    count = 0
    if former is not None and former.is_list == is_list:
        if former.glances is None:
            same = same_values(former.plain(values), map(values.plain, objects))
        else:
            same = former.glances.same(glances)
        kept, count = _kept(former.parts, same)
    if count < len(objects):
        told = map(glances.value, range(count, len(objects)))
        fresh = [
            values.sealed(values.plain(each) if value is None else value)
            for each, value in zip(objects[count:], told, strict=True)
        ]
        stored = (in_array(fresh) if values.is_joined else fresh) if is_list else fresh[0]
        kept = _joined(kept, Part(HERE, len(fresh), stored, _bytes_in(stored, is_list=is_list)))
    return Channel(is_list, kept, glances)


def _kept(parts: Sequence[Part], same: int) -> tuple[list[Part], int]:
    """The parts that lie in so many elements, and how many elements they have."""
    kept: list[Part] = []
    count = 0
    for part in parts:
        if count + part.count > same:
            break
        kept.append(part)
        count += part.count
    return kept, count


def _joined(kept: Sequence[Part], fresh: Part) -> list[Part]:
    """The parts with a new one, which has what lies in many of its size, or smaller, before it."""
    parts = list(kept)
    while True:
        first = len(parts)
        while first and _level(parts[first - 1]) <= _level(fresh):
            first -= 1
        together = [*parts[first:], fresh]
        if len(together) < _FEW or sum(part.size for part in together) > _MOST_BYTES:
            return [*parts, fresh]
        fresh = merged(together)
        del parts[first:]


def merged(parts: Sequence[Part]) -> Part:
    """Parts of a list as one that is to be written; the one part of a value that is no list, likewise."""
    if len(parts) == 1:
        return parts[0].at(HERE)
    stored = joined([part.stored for part in parts])
    return Part(HERE, sum(part.count for part in parts), stored, _bytes_in(stored, is_list=True))


def _level(part: Part) -> int:
    """Of which size a part is: the logarithm of its bytes, with 8 as the base."""
    return part.size.bit_length() // _EIGHTS


def table_of(channels: Mapping[str, Channel]) -> dict[str, Any]:
    """Where the values of channels lie, for the event that has the new parts."""
    return {
        name: [[part.offset, part.count] for part in channel.parts] if channel.is_list else channel.parts[0].offset
        for name, channel in channels.items()
    }


def located(entry: Any, own: int) -> list[int]:
    """The offsets of the events that have the parts of a channel.

    Args:
        entry: What a table has of it.
        own: The offset of the event that the table is of.
    """
    offsets = [offset for offset, _ in entry] if isinstance(entry, list) else [entry]
    return [own if offset == HERE else offset for offset in offsets]


def read_channel(entry: Any, own: int, part_at: Callable[[int, int], Any]) -> Channel:
    """A channel of its parts.

    Args:
        entry: What the table of an event has of it.
        own: The offset of that event.
        part_at: What is kept of the channel, by the offset of the event that has it, and by how many elements come
            before.
    """
    is_list = isinstance(entry, list)
    counts = [count for _, count in entry] if is_list else [1]
    parts: list[Part] = []
    before = 0
    for offset, count in zip(located(entry, own), counts, strict=True):
        stored = part_at(offset, before)
        parts.append(Part(offset, count, stored, _bytes_in(stored, is_list=is_list)))
        before += count
    return Channel(is_list, parts)


def _bytes_in(stored: Stored, *, is_list: bool) -> int:
    """How many bytes a part of a channel has."""
    return sum(map(size_of, stored)) if is_list and not isinstance(stored, bytes) else size_of(stored)
