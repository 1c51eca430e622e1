"""What comes in runs, read and encoded once for all streams of a run that have its history.

A stream reads its history by itself; from its end on it takes what the tail of its run has, which follows the run
for all of them and keeps the latest of it. A stream whose reader is slow falls behind that, reads by itself again,
and comes back: so it costs no more than where it stands.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import cached_property
from typing import Any

from runstream.codec.json_facts import event_facts
from runstream.model.results import Recorded
from runstream.operations.arguments import parse_position
from runstream.operations.follow_runs import Position
from runstream.web.frames import frame, patiently
from runstream.web.reading import shown_facts

__all__ = ["Framed", "Tails"]

_MOST_EVENTS = 128
_MOST_BYTES = 256 * 1024
"""Of the frames that a tail keeps; the latest event is kept whatever its size."""

_PAUSE_SECONDS = 0.05


class Framed(Recorded[Any]):
    """An event with its frames, which are the same for all streams that give it so.

    Attributes:
        frame: The server-sent event of it as it is.
        note: Told of the bytes of what is made of it later.
    """

    frame: bytes
    note: Callable[[int], None] | None

    @classmethod
    def of(cls, item: Recorded[Any]) -> Framed:
        """An event, encoded."""
        made = cls(*item)
        made.frame = frame(event_facts(item), position=item.cursor)
        made.note = None
        return made

    @cached_property
    def readable(self) -> bytes:
        """The server-sent event of it as people read it."""
        made = frame(shown_facts(self), position=self.cursor)
        if made == self.frame:
            return self.frame
        if self.note is not None:
            self.note(len(made))
        return made

    @property
    def size(self) -> int:
        """The bytes of the frames that are made."""
        readable = self.__dict__.get("readable", self.frame)
        return len(self.frame) + (0 if readable is self.frame else len(readable))


class Tails:
    """The tails of the runs that have streams."""

    def __init__(self) -> None:
        self._tails: dict[str, _Tail] = {}

    async def follow(
        self, store: Any, run_id: str, after: Position, seconds: float
    ) -> AsyncGenerator[Recorded[Any] | None, None]:
        """The events of a run, its history and then what comes, until it has ended and all was given.

        Args:
            store: The store.
            run_id: The run.
            after: Where to begin.
            seconds: After how many without an event None is given.
        """
        position, read_to = after, None
        while True:
            if position == read_to:  # the tail has more, which is not to be read yet
                await asyncio.sleep(_PAUSE_SECONDS)
            async with aclosing(self.read(store, run_id, position, seconds)) as items:
                async for item in items:
                    if item is not None:
                        position = item.cursor
                    yield item
            read_to = position
            tail = self._join(store, run_id, position, seconds)
            try:
                async with aclosing(tail.after(position)) as items:
                    async for item in items:
                        if item is not None:
                            position = item.cursor
                        yield item
            finally:
                await self._leave(run_id, tail)
            if tail.has_given_all(position):
                return

    @staticmethod
    def read(
        store: Any, run_id: str, after: Position, seconds: float
    ) -> AsyncGenerator[Recorded[Any] | None, None]:
        """The same of what a run has, without what comes."""
        return patiently(store.read(run_id, after), seconds)

    def _join(self, store: Any, run_id: str, position: Position, seconds: float) -> _Tail:
        tail = self._tails.get(run_id)
        if tail is None or tail.is_over:
            tail = self._tails[run_id] = _Tail(store, run_id, position, seconds)
        tail.streams += 1
        return tail

    async def _leave(self, run_id: str, tail: _Tail) -> None:
        tail.streams -= 1
        if tail.streams == 0:
            if self._tails.get(run_id) is tail:
                del self._tails[run_id]
            await tail.end()


class _Tail:
    """What comes in a run from a position on.

    Args:
        store: The store.
        run_id: The run.
        start: The position.
        seconds: After how many without an event all streams are told of that.

    Attributes:
        streams: How many streams take from it.
        is_over: Whether nothing comes any more: the run has ended, or something went wrong.
    """

    def __init__(self, store: Any, run_id: str, start: Position, seconds: float) -> None:
        self.streams = 0
        self.is_over = False
        self._kept: deque[Framed] = deque()
        self._kept_bytes = 0
        self._before = start  # the position before what is kept
        self._last = start
        self._count = 0  # of all that came
        self._quiet = 0
        self._error: Exception | None = None
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._places: dict[object, float] = {}  # where those who take from it are, as numbers of what came
        self._news, self._wanted = asyncio.Event(), asyncio.Event()
        self._following = asyncio.create_task(self._follow(store, run_id, start))

    async def end(self) -> None:
        """Follow the run no more."""
        self._following.cancel()
        with suppress(asyncio.CancelledError):
            await self._following

    def has_given_all(self, position: Position) -> bool:
        """Whether the run has ended, and all that came in it was given to who is at a position."""
        return self.is_over and _is_same(position, self._last)

    async def after(self, position: Position) -> AsyncGenerator[Framed | None, None]:
        """What comes after a position, and None whenever nothing has come for a while.

        It ends where the run has ended, and where what comes after the position is not kept any more.

        Raises:
            Exception: What following the run has raised.
        """
        place = object()
        self._places[place] = math.inf
        self._wanted.set()
        try:
            async with aclosing(self._until_at(position)) as quiet:
                async for nothing in quiet:
                    yield nothing
            at = self._find(position)
            if at is not None:
                self._places[place] = at
            while at is not None and at >= self._count - len(self._kept):
                if at < self._count:
                    at += 1
                    self._places[place] = at  # it is behind only where it would find that itself
                    yield self._kept[at - 1 - self._count]
                elif self._error is not None:
                    raise self._error
                elif self.is_over:
                    return
                elif await self._is_quiet() and at == self._count and not self.is_over:
                    yield None
        finally:
            del self._places[place]

    async def _until_at(self, position: Position) -> AsyncGenerator[None, None]:
        """Wait until a position has come, which who reads may be ahead with; None is given now and then."""
        offset, told_at = parse_position(position)[0], time.monotonic()
        while parse_position(self._last)[0] < offset and not self.is_over:
            if await self._is_quiet() or time.monotonic() > told_at + self._seconds:
                told_at = time.monotonic()
                yield None

    async def _is_quiet(self) -> bool:
        """Wait for what comes. Returns whether nothing has come for a while."""
        quiet, news = self._quiet, self._news
        await news.wait()
        return self._quiet > quiet

    def _find(self, position: Position) -> int | None:
        """How many had come up to a position; None where it is not known, or not any more."""
        if _is_same(position, self._before):
            return self._count - len(self._kept)
        for number, item in enumerate(reversed(self._kept)):
            if _is_same(position, item.cursor):
                return self._count - number
        return None

    async def _follow(self, store: Any, run_id: str, start: Position) -> None:
        self._wait_for_quiet()
        try:
            async with aclosing(store.follow(run_id, start)) as items:
                async for item in items:
                    self._wait_for_quiet()
                    self._keep(Framed.of(item))
                    self._tell()
                    await self._until_wanted()
        except Exception as error:  # noqa: BLE001 - it is raised in every stream
            self._error = error
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.is_over = True
            self._tell()

    def _wait_for_quiet(self) -> None:
        """Tell all streams, from now on, whenever nothing has come for a while."""
        # a timer, and no task that reads ahead: each event would take a turn of the loop more
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._be_quiet)

    def _be_quiet(self) -> None:
        self._quiet += 1
        self._tell()
        self._wait_for_quiet()

    async def _until_wanted(self) -> None:
        """Wait while all who take from it are behind what it keeps: each will read by itself, and come back."""
        while self._places and max(self._places.values()) < self._count - len(self._kept):
            self._wanted.clear()
            await self._wanted.wait()

    def _keep(self, item: Framed) -> None:
        self._kept.append(item)
        item.note = self._note
        self._note(item.size)
        self._count += 1
        self._last = item.cursor
        while len(self._kept) > 1 and (len(self._kept) > _MOST_EVENTS or self._kept_bytes > _MOST_BYTES):
            gone = self._kept.popleft()
            gone.note = None
            self._kept_bytes -= gone.size
            self._before = gone.cursor

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _note(self, size: int) -> None:
        self._kept_bytes += size


def _is_same(position: Position, other: Position) -> bool:
    """Whether two positions are the same one, as far as they say: an offset alone says nothing of the history."""
    if isinstance(position, str) and isinstance(other, str):
        return position == other
    return parse_position(position)[0] == parse_position(other)[0]
