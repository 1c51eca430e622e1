"""Streams made of others' streams, written once for sync and async: as steps that yield calls and streams.

As in :mod:`runstream.run.steps` a generator yields what it wants done, and receives the result or the error;
here it may also yield a :class:`Pour`, a stream whose items are handed on. The two functions differ in nothing
but the waiting.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing
from typing import Any, TypeAlias

from runstream.model.errors import RunstreamError
from runstream.model.results import Recorded

__all__ = ["Pour", "Pouring", "pour", "pour_async"]

_FAILURES = (RunstreamError, TimeoutError)


class Pour:
    """A stream of recorded events to hand on, without those that are not wanted."""

    __slots__ = ("given", "given_at", "last", "stream", "wanted")

    def __init__(self, stream: Any, wanted: Callable[[Any], bool] | None = None) -> None:
        self.stream = stream
        self.wanted = wanted
        self.last: Recorded[Any] | None = None
        """The last item that came, wanted or not."""
        self.given = 0
        """How many were handed on."""
        self.given_at: float | None = None
        """When the reader came back for the next one, by the monotonic clock."""

    def takes(self, item: Recorded[Any]) -> bool:
        """Note an item; whether it is handed on."""
        self.last = item
        if self.wanted is not None and not self.wanted(item.event):
            return False
        self.given += 1
        return True

    def reached(self, low: int, place: int | str) -> tuple[int, int | str]:
        """Offset and place of the last item, or those from which on this was to go."""
        return (low, place) if self.last is None else (self.last.offset, self.last.cursor)


Pouring: TypeAlias = Generator[Callable[[], Any] | Pour, Any, None]


def pour(steps: Pouring) -> Iterator[Any]:
    """The items of the streams that the steps yield, as they come; calls that they yield are made here."""
    with closing(steps):
        try:
            wish = next(steps)
            while True:
                try:
                    result = None
                    if isinstance(wish, Pour):
                        with closing(wish.stream):
                            for item in wish.stream:
                                if wish.takes(item):
                                    yield item
                                    wish.given_at = time.monotonic()
                    else:
                        result = wish()
                except _FAILURES as error:
                    wish = steps.throw(error)
                else:
                    wish = steps.send(result)
        except StopIteration:
            return


async def pour_async(steps: Pouring) -> AsyncIterator[Any]:
    """:func:`pour`, awaited."""
    with closing(steps):
        try:
            wish = next(steps)
            while True:
                try:
                    result = None
                    if isinstance(wish, Pour):
                        async with aclosing(wish.stream):
                            async for item in wish.stream:
                                if wish.takes(item):
                                    yield item
                                    wish.given_at = time.monotonic()
                    else:
                        result = await wish()
                except _FAILURES as error:
                    wish = steps.throw(error)
                else:
                    wish = steps.send(result)
        except StopIteration:
            return
