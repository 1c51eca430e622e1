"""The calls that an agent makes to its store: some are broken off, by a signal or by asyncio's cancellation.

What is broken off has an unknown outcome, as what got no reply has. So an agent is told that the store is
unavailable, and makes the same call again, or gives it up and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from inspect import isawaitable
from typing import Any, ClassVar

from runstream.model.errors import EventsArchived, StoreUnavailable
from runstream.run.lane import LaneWriter
from runstream.run.lease_state import LeaseState
from runstream.testing.simulation.loop import Loop
from runstream.testing.simulation.scheduler import Interrupted
from runstream.testing.simulation.world import World

__all__ = ["Calls", "Make", "made_here", "made_in_loop", "made_once_there"]

_MAY_BE_BROKEN_OFF = frozenset(
    {"append", "checkpoint", "emit_many", "lease", "once", "open_run", "release", "resend", "update_state"}
)
_NOT_TO_BE_REPEATED = frozenset({"emit_many", "resend"})  # that would be another event
_BEGIN_A_RUN = frozenset({"append", "emit_many"})
_SECONDS = (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.02, 0.5)  # of a step and less, up to some pauses

Make = Callable[[str, Callable[[], Any]], Any]
"""Makes the call of a method, given its name, and returns its result."""


class _BrokenOff(StoreUnavailable):
    """The agent has broken off the call."""


class _GivenUp(_BrokenOff):
    """It has, and does not ask what became of it."""

    is_final: ClassVar[bool] = True


class Calls:
    """A store whose methods are called in a way of one's own, and so are those of its leases and Runs.

    Args:
        thing: The store, sync or async.
        make: Makes each call.
    """

    def __init__(self, thing: Any, make: Make) -> None:
        self._thing, self._make = thing, make

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of its own: it is being copied
            raise AttributeError(name)
        value = getattr(self._thing, name)
        return partial(self._call, name, value) if callable(value) else value

    def _call(self, name: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            result = self._make(name, partial(method, *args, **options))
        except StoreUnavailable as error:
            if error.resend is not None:
                error.resend = partial(self._call, "resend", error.resend)
            raise
        if isinstance(result, AsyncIterator):
            return self._iterate(result)
        return Calls(result, self._make) if isinstance(result, LaneWriter | LeaseState) else result

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._make("anext", lambda: anext(items))
            except StopAsyncIteration:
                return


def made_here(world: World) -> Make:
    """Calls of a sync store, which a signal may interrupt."""

    def make(name: str, call: Callable[[], Any]) -> Any:
        seconds = _until_broken_off(world, name)
        if seconds is None:
            return call()
        try:
            with world.scheduler.alarm(seconds):
                return call()
        except Interrupted as error:
            raise _told(world, name, "interrupted") from error

    return make


def made_in_loop(world: World, loop: Loop, who: str) -> Make:
    """Calls of an async store in an event loop, made for another thread, which may be cancelled."""

    def make(name: str, call: Callable[[], Any]) -> Any:
        seconds = _until_broken_off(world, name)
        try:
            return loop.call(partial(_awaited, call, seconds), who)
        except TimeoutError as error:
            if seconds is None:  # it is not ours
                raise
            raise _told(world, name, "cancelled") from error

    return make


def made_once_there(make: Make, put_back: Callable[[str], bool]) -> Make:
    """Calls that are made again once a run is put back that an archive alone has, as the error says.

    Args:
        make: Makes each call.
        put_back: Puts back a run; False: it is there already, as another has put it back since.
    """

    def made(name: str, call: Callable[[], Any]) -> Any:
        was_there = False
        while True:
            try:
                return make(name, call)
            except EventsArchived as error:
                if name not in _BEGIN_A_RUN or was_there:
                    raise
                was_there = not put_back(error.run_id)

    return made


async def _awaited(call: Callable[[], Awaitable[Any] | AsyncIterator[Any]], seconds: float | None) -> Any:
    async with asyncio.timeout(seconds):
        result = call()
        return await result if isawaitable(result) else result


def _until_broken_off(world: World, name: str) -> float | None:
    weights = world.call_fates()
    if name not in _MAY_BE_BROKEN_OFF or len(weights) == 1 or not world.choices.among(weights):
        return None
    return world.choices.one_of(_SECONDS)


def _told(world: World, name: str, how: str) -> StoreUnavailable:
    gives_up = name in _NOT_TO_BE_REPEATED or world.choices.below(2)
    world.scheduler.note(f"its {name} is {how}{', and it gives it up' if gives_up else ''}")
    return (_GivenUp if gives_up else _BrokenOff)(f"the call was {how}")
