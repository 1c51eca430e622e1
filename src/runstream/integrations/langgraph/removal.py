"""What removes threads and the checkpoints of LangGraph's runs, and what copies a thread."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from runstream.integrations.langgraph.channels import located, table_of
from runstream.integrations.langgraph.context import Context
from runstream.integrations.langgraph.history import Backward, Found, threads
from runstream.integrations.langgraph.loading import find_said, gather, kind_of
from runstream.integrations.langgraph.mapping import CLEARED, SAVED, WRITES, Place, run_tag
from runstream.integrations.langgraph.saved import state_of
from runstream.model.errors import ConcurrencyConflict
from runstream.model.results import Recorded
from runstream.operations.arguments import AppendOptions, ReadQuery, RunsQuery
from runstream.operations.erase_arguments import EraseRequest
from runstream.operations.erasing import erasing
from runstream.operations.filters import lane_of, payload_of
from runstream.operations.operation import Operation, pass_on, settled
from runstream.operations.run_forks import ForkOptions, without_forks

__all__ = ["append_said", "copy_thread", "delete_for_runs", "delete_thread"]


def delete_thread(context: Context, thread_id: str) -> Operation[None]:
    """Remove a thread; its copies get a history of their own first."""
    operations, thread_id = context.operations, str(thread_id)
    yield from without_forks(partial(operations.delete_run, thread_id), operations.detach)
    context.known.forget_thread(thread_id)


def copy_thread(context: Context, source: str, target: str) -> Operation[None]:
    """Make a thread that has the history of another, by pointer, and goes on by itself."""
    yield from context.operations.fork(str(source), str(target), ForkOptions())
    context.known.forget_thread(str(target))


def delete_for_runs(context: Context, run_ids: Sequence[str]) -> Operation[None]:
    """Remove the checkpoints that LangGraph's runs made, with what tasks wrote after them."""
    done: set[str] = set()
    for run_id in run_ids:
        query = RunsQuery(tags={run_tag(str(run_id)): ""})
        for info in (yield from threads(context, query)):
            if info.run_id not in done:
                done.add(info.run_id)
                yield from _clear(context, info.run_id, frozenset(map(str, run_ids)))


class _Thread(NamedTuple):
    """The checkpoints of a thread, the latest first: those that are to go, and those that stay."""

    cleared: Sequence[Found]
    kept: Sequence[Found]

    @property
    def places(self) -> list[Place]:
        """All places."""
        return sorted({found.place for found in (*self.cleared, *self.kept)})

    def latest(self, place: Place) -> Found | None:
        """The latest checkpoint of a place of those that stay."""
        return next((found for found in self.kept if found.place == place), None)

    def needed(self) -> set[int]:
        """The offsets of events that what stays is read from."""
        offsets = {
            offset
            for found in self.kept
            for entry in found.saved.channels.values()
            for offset in located(entry, found.offset)
        }
        return offsets | {found.offset for found in self.kept}

    @property
    def has_deltas(self) -> bool:
        """Whether what stays may be rebuilt from what was written after what is to go."""
        return any("counters_since_delta_snapshot" in found.saved.metadata for found in self.kept)


def _clear(context: Context, thread_id: str, run_ids: Collection[str]) -> Operation[None]:
    """Remove the checkpoints of some of LangGraph's runs from a thread.

    They are said to be cleared, all in one step with the snapshots of the lanes; then the events are erased that
    nothing of what stays is read from.
    """
    found: list[Found] = []
    log = Backward(context, thread_id, None, None)
    while (page := (yield from log.page())) is not None:
        found += page
    cleared = [each for each in found if each.saved.metadata.get("run_id") in run_ids]
    thread = _Thread(cleared, [each for each in found if each not in cleared])
    if not cleared:
        return
    if not thread.kept:
        yield from delete_thread(context, thread_id)
        return
    states = yield from _states(context, thread)
    said = [(each.place, each.saved.id, CLEARED, {"checkpoint": each.saved.id}) for each in cleared]
    yield from append_said(context, thread_id, said, states)
    erasable = yield from _erasable(context, thread_id, thread)
    if erasable:
        lease = context.known.lease_on(thread_id)
        request: EraseRequest[Any, Any] = EraseRequest(offsets=erasable, snapshots=states, lease=lease)
        yield from erasing(context.operations, thread_id, request)
    context.known.forget_thread(thread_id)


def _states(context: Context, thread: _Thread) -> Operation[dict[str | None, Any]]:
    """The states of the lanes once some checkpoints are gone: by lane the latest one of what stays, or nothing."""
    states: dict[str | None, Any] = {}
    for place in thread.places:
        # so that each state is made from the one that is there
        yield from context.operations.recover(place.thread_id, place.lane_id)
        latest = thread.latest(place)
        data: dict[str, Any] = {}
        if latest is not None:
            at_hand = {latest.offset: latest.payload}
            channels = yield from gather(context, place, latest.saved, latest.offset, at_hand)
            saved = latest.saved._replace(channels=table_of(channels))
            data = state_of(saved, channels, latest.offset)
        states[place.lane_id] = context.state(place, data)
    return states


def _erasable(context: Context, thread_id: str, thread: _Thread) -> Operation[list[int]]:
    """The offsets of the thread's own events that nothing of what stays is read from."""
    if thread.has_deltas:
        return []
    info = yield from context.operations.run_info(thread_id)
    shared = 0 if info is None or info.parent is None else info.parent[1]
    needed = thread.needed()
    names = {(found.place, found.saved.id) for found in thread.cleared}
    found: list[int] = []

    def look(items: Sequence[Recorded[Any]]) -> Sequence[Any]:
        for item in items:
            payload, place = payload_of(item.event), Place.at(thread_id, lane_of(item.event))
            kind = kind_of(item)
            if kind not in (SAVED, WRITES) or place is None or item.offset <= shared or item.offset in needed:
                continue
            if (place, payload["checkpoint"]["id"] if kind == SAVED else payload["checkpoint"]) in names:
                found.append(item.offset)
        return ()

    yield from pass_on(context.operations.read(thread_id, ReadQuery(shared)), look)
    return found


def append_said(
    context: Context,
    thread_id: str,
    said: Sequence[tuple[Place, str, str, Mapping[str, Any]]],
    states: Mapping[str | None, Any],
    expected_offset: int | None = None,
) -> Operation[None]:
    """Append events about checkpoints, with states of their lanes, in one step.

    Args:
        context: What the saver works with.
        thread_id: The thread.
        said: Of each event the place and id of its checkpoint, its kind and its payload.
        states: The states by lane.
        expected_offset: Where the run must end before that; None: anywhere.

    Raises:
        ConcurrencyConflict: Somebody else has written to the thread meanwhile.
    """
    yield from find_said(context, list(dict.fromkeys((place, name) for place, name, _, _ in said)))
    events = [context.event(place, kind, dict(payload)) for place, _, kind, payload in said]
    keys = [place.further_key(name, context.known.take_number(place, name)) for place, name, _, _ in said]
    lease = context.known.lease_on(thread_id)
    options: AppendOptions[Any] = AppendOptions(expected_offset, keys, lease, snapshots=dict(states))
    result, shortfall = yield from settled(context.operations.append(thread_id, events, options))
    if result.known:
        raise ConcurrencyConflict(
            f"somebody has written to thread {thread_id!r} meanwhile: call it again", expected=0, actual=0
        )
    if shortfall is not None:
        raise shortfall
