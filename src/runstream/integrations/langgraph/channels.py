"""Channels in parts: which part of a value each event has, so that a long list is not written again. Pure.

A list, as that of the messages of a chat, is kept by element. The event of a checkpoint has the elements that are
new; the others lie in earlier events, whose offsets it names. Many small parts become one that is written again
whole: parts of about one size, once there are eight of them. So a list of n elements lies in a few times log n
parts, each element is written about log n times, with 8 as the base, and the history of a chat of n turns grows as
n log n, not as the square of n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import ne
from typing import Any, NamedTuple

from runstream.integrations.langgraph.values import Value, Values, size_of

__all__ = ["HERE", "Channel", "Part", "Table", "located", "read_channel", "split", "table_of", "value_of"]

HERE = 0
"""Stands for the offset of the very event that names it: no event has it."""

Table = Mapping[str, Any]
"""Where the values of channels lie, as events have it: by channel an offset, or a list of offset and count."""

_FEW = 8
_EIGHTS = 3  # bits
_ENTRY_BYTES = 60  # what Python holds for bytes beside them, about


class Part(NamedTuple):
    """What one event has of a channel.

    Attributes:
        offset: The event's offset; HERE for one that is to be written.
        values: The elements of a list, or the one value that is no list.
        size: How many bytes they have.
    """

    offset: int
    values: Sequence[Value]
    size: int


class Channel(NamedTuple):
    """The value of a channel.

    Attributes:
        is_list: Whether it is a list, kept by element.
        parts: The parts, in order.
        plain: The values of all parts before they were encrypted.
    """

    is_list: bool
    parts: Sequence[Part]
    plain: Sequence[Value]

    @property
    def held_bytes(self) -> int:
        """What Python holds for it, about."""
        return sum(part.size for part in self.parts) + _ENTRY_BYTES * len(self.plain)

    @property
    def fresh(self) -> Part | None:
        """The part that is to be written: there is one at most."""
        return next((part for part in self.parts if part.offset == HERE), None)

    def load(self, values: Values) -> Any:
        """The value itself, a new object each time."""
        found = [values.load(value) for part in self.parts for value in part.values]
        return found if self.is_list else found[0]

    def written_at(self, offset: int) -> Channel:
        """The same once the event that has the new part is written at an offset."""
        if self.fresh is None:
            return self
        parts = [part if part.offset != HERE else part._replace(offset=offset) for part in self.parts]
        return self._replace(parts=parts)


def split(former: Channel | None, obj: Any, values: Values) -> Channel:
    """The value of a channel in parts, as many as can be of those that are written already.

    Args:
        former: The channel as it was; None: it is new.
        obj: Its value now.
        values: Makes values of objects.
    """
    is_list = type(obj) is list and bool(obj)
    plain = list(map(values.plain, obj)) if is_list else [values.plain(obj)]
    if former is None or former.is_list != is_list:
        former = Channel(is_list, (), ())
    kept, count = _kept(former, plain)
    if count == len(plain):
        return Channel(is_list, kept, plain)
    fresh = list(map(values.sealed, plain[count:]))
    return Channel(is_list, _joined(kept, Part(HERE, fresh, sum(map(size_of, fresh)))), plain)


def _kept(former: Channel, plain: Sequence[Value]) -> tuple[list[Part], int]:
    """The parts that are the beginning of a new value, and how many elements they have."""
    same = next(_indexes_where(ne, former.plain, plain), min(len(former.plain), len(plain)))
    kept: list[Part] = []
    count = 0
    for part in former.parts:
        if count + len(part.values) > same:
            break
        kept.append(part)
        count += len(part.values)
    return kept, count


def _indexes_where(
    differ: Callable[[Any, Any], bool], first: Sequence[Value], second: Sequence[Value]
) -> Iterator[int]:
    return (index for index, is_other in enumerate(map(differ, first, second)) if is_other)


def _joined(kept: Sequence[Part], fresh: Part) -> list[Part]:
    """The parts with a new one, which has what lies in many of its size, or smaller, before it."""
    parts = list(kept)
    while True:
        first = len(parts)
        while first and _level(parts[first - 1]) <= _level(fresh):
            first -= 1
        if len(parts) - first + 1 < _FEW:
            return [*parts, fresh]
        together = [*parts[first:], fresh]
        size = sum(part.size for part in together)
        fresh = Part(HERE, list(chain.from_iterable(part.values for part in together)), size)
        del parts[first:]


def _level(part: Part) -> int:
    """Of which size a part is: the logarithm of its bytes, with 8 as the base."""
    return part.size.bit_length() // _EIGHTS


def table_of(channels: Mapping[str, Channel]) -> dict[str, Any]:
    """Where the values of channels lie, for the event that has the new parts."""
    return {
        name: [[part.offset, len(part.values)] for part in channel.parts]
        if channel.is_list
        else channel.parts[0].offset
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


def value_of(part: Part, *, is_list: bool) -> Any:
    """A part as an event has it."""
    return list(part.values) if is_list else part.values[0]


def read_channel(entry: Any, own: int, part_at: Callable[[int, int], Any], values: Values) -> Channel:
    """A channel of its parts.

    Args:
        entry: What the table of an event has of it.
        own: The offset of that event.
        part_at: What is kept of the channel, by the offset of the event that has it, and by how many elements come
            before.
        values: Makes plain values of those that are kept.
    """
    is_list = isinstance(entry, list)
    parts: list[Part] = []
    plain: list[Value] = []
    for offset in located(entry, own):
        found = part_at(offset, len(plain))
        kept = found if is_list else [found]
        parts.append(Part(offset, kept, sum(map(size_of, kept))))
        plain += map(values.opened, kept)
    return Channel(is_list, parts, plain)
