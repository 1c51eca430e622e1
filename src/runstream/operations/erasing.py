"""Find what is to be erased, for every store alike, and let the store erase it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any

from runstream.model.erasures import Erasure, spans_of
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import shown
from runstream.model.results import E, Recorded, S
from runstream.operations.arguments import AppendOptions, ReadQuery
from runstream.operations.erase_arguments import EraseOptions, EraseRequest
from runstream.operations.filters import lane_of
from runstream.operations.interface import StoreOperations
from runstream.operations.look_ups import offsets_asked
from runstream.operations.operation import Operation, Stream, pass_on

__all__ = ["erasing"]


def erasing(operations: StoreOperations[E, S], run_id: str, request: EraseRequest[E, S]) -> Operation[Erasure]:
    """Find the offsets that are meant, save the snapshots that are given, and let the store erase."""
    request.check(run_id)
    if request.offsets is not None:
        offsets = offsets_asked(run_id, request.offsets)
    else:
        offsets = yield from _matching(operations.read(run_id, ReadQuery(on_corrupt="skip")), _wanted(request))
    given: Collection[str | None] = ()
    if request.snapshots is not None:
        options: AppendOptions[S] = AppendOptions(lease=request.lease, snapshots=request.snapshots)
        given = list(options.states)
        yield from operations.append(run_id, (), options)
    how = EraseOptions(request.drop_snapshots, given, request.lease)
    return (yield from operations.erase(run_id, spans_of(offsets), how))


def _wanted(request: EraseRequest[E, Any]) -> Callable[[E], bool]:
    """Whether an event is to be erased."""
    if request.where is not None:
        return partial(_says, request.where)
    return lambda event: bool(lane_of(event) == request.lane_id)


def _says(where: Callable[[E], bool], event: E) -> bool:
    """What a caller's function says of an event: what is to be awaited would be true of each."""
    found: Any = where(event)
    if isawaitable(found):
        if iscoroutine(found):
            found.close()
        raise ConfigurationError(f"where={shown(where)} is to be awaited: pass a function that is not")
    return bool(found)


def _matching(events: Stream, is_wanted: Callable[[E], bool]) -> Operation[list[int]]:
    """The offsets of the events of a stream that are wanted."""
    found: list[int] = []

    def look(items: Sequence[Recorded[E]]) -> Sequence[Any]:
        found.extend(item.offset for item in items if is_wanted(item.event))
        return ()

    yield from pass_on(events, look)
    return found
