"""What happens in runs, as it comes: events, records that do not read, losses, and nothing for a while.

A stream goes on through outages of the store. A record that does not read is told and passed over. Of a run whose
history is another one by now, it is told that what was given of it may be void, and all of it is given anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import aclosing
from typing import Any, NamedTuple, TypeAlias

from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.model.results import Recorded, RunInfo
from runstream.model.state import ENDED_STATUSES
from runstream.operations.follow_runs import UNREADABLE, Position
from runstream.web.problems import LOST

__all__ = ["Failed", "Given", "Happening", "Lost", "Quiet", "Unreadable", "all_given", "happenings"]

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0


class Given(NamedTuple):
    """An event of a run."""

    run_id: str
    item: Recorded[Any]


class Unreadable(NamedTuple):
    """A record of a run that does not read, and was passed over."""

    run_id: str
    offset: int
    error: Exception


class Lost(NamedTuple):
    """The history of a run is another one than was given; it comes anew, from its beginning."""

    run_id: str
    error: RunstreamError


class Quiet(NamedTuple):
    """Nothing has come for a while, or the store is away."""


class Failed(NamedTuple):
    """It cannot go on: this is the last. ``run_id`` is the run that it is about, of those that are read."""

    error: Exception
    run_id: str | None


Happening: TypeAlias = Given | Unreadable | Lost | Quiet | Failed


async def happenings(
    store: Any,
    positions: MutableMapping[str, Position],
    begin: Callable[[], AsyncGenerator[tuple[str, Recorded[Any]] | None, None]],
) -> AsyncGenerator[Happening, None]:
    """What happens in some runs.

    Args:
        store: The store.
        positions: How far each run has been given. It is kept up to date.
        begin: Reads or follows the runs from there, and gives None when nothing has come for a while; called
            again after what went wrong.

    Returns:
        What happens, until what ``begin`` gives ends.
    """
    pause = _SHORTEST_PAUSE_SECONDS
    while True:
        try:
            async with aclosing(begin()) as pairs:
                async for pair in pairs:
                    pause = _SHORTEST_PAUSE_SECONDS
                    if pair is None:
                        yield Quiet()
                    else:
                        run_id, item = pair
                        positions[run_id] = item.cursor
                        yield Given(run_id, item)
        except StoreUnavailable:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            happening: Happening = Quiet()
        except RunstreamError as error:
            happening = await _after(store, positions, error)
        else:
            return
        yield happening
        if isinstance(happening, Failed):
            return


async def all_given(store: Any, info: RunInfo, after: Position) -> bool:
    """Whether a run has ended, and nothing comes in it after a position that its history has."""
    if info.status not in ENDED_STATUSES:
        return False
    try:
        async with aclosing(store.read(info.run_id, after, limit=1, on_corrupt="raw")) as items:
            return not [item async for item in items]
    except LOST:
        return False


async def _after(store: Any, positions: MutableMapping[str, Position], error: RunstreamError) -> Happening:
    """What to tell of an error, after which it goes on, or does not."""
    about = getattr(error, "run_id", None)
    run_id = about if about in positions else None
    if run_id is None and len(positions) == 1:  # it is of what a fork shares
        (run_id,) = positions
    if run_id is not None:
        try:
            if isinstance(error, UNREADABLE) and error.offset and about == run_id:
                return await _pass_over(store, positions, run_id, error)
            if isinstance(error, LOST):
                return await _begin_anew(store, positions, run_id, error)
        except RunstreamError as again:
            return Failed(again, run_id)
    return Failed(error, run_id)


async def _pass_over(store: Any, positions: MutableMapping[str, Position], run_id: str, error: Any) -> Happening:
    async with aclosing(store.read(run_id, error.offset - 1, before=error.offset + 1, on_corrupt="raw")) as items:
        async for item in items:
            positions[run_id] = item.cursor
            return Unreadable(run_id, error.offset, error)
    return Failed(error, run_id)


async def _begin_anew(store: Any, positions: MutableMapping[str, Position], run_id: str, error: Any) -> Happening:
    # the store object has seen what is gone, and would refuse to read on; it is the app's own
    await store.forget(error.run_id)
    async with aclosing(
        store.read(run_id, limit=1, on_corrupt="raw")
    ) as items:  # it may be lost in an archive, too
        async for _ in items:
            break
    positions[run_id] = 0
    return Lost(run_id, error)
