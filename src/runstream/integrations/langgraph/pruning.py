"""Prune threads: keep the latest checkpoint of each namespace, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.integrations.langgraph.channels import Channel, merged, table_of
from runstream.integrations.langgraph.context import Context
from runstream.integrations.langgraph.deltas import history_of, kept_history
from runstream.integrations.langgraph.history import threads
from runstream.integrations.langgraph.loading import Loaded, load
from runstream.integrations.langgraph.mapping import SAVED, WRITES, Place
from runstream.integrations.langgraph.removal import append_said, delete_thread
from runstream.integrations.langgraph.saved import payload_of, state_of
from runstream.model.clock import unix_seconds
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import shown
from runstream.model.results import RunInfo
from runstream.operations.arguments import RunsQuery, check_seconds
from runstream.operations.erase_arguments import TruncateOptions
from runstream.operations.operation import Operation
from runstream.operations.run_forks import without_forks
from runstream.operations.truncating import truncating

__all__ = ["prune"]

_COUNTERS = "counters_since_delta_snapshot"


def prune(
    context: Context, thread_ids: Sequence[str] | None, strategy: str, idle_seconds: float | None
) -> Operation[None]:
    """Remove what is no longer needed of threads."""
    if strategy not in ("keep_latest", "delete"):
        raise ConfigurationError(f"strategy={shown(strategy)}: use 'keep_latest' or 'delete'")
    check_seconds("idle_seconds", idle_seconds)
    updated_before = None if idle_seconds is None else unix_seconds() - idle_seconds
    if thread_ids is None:
        infos: list[RunInfo] = yield from threads(context, RunsQuery(updated_before=updated_before))
    else:
        infos = []
        for thread_id in thread_ids:
            info = yield from context.operations.run_info(str(thread_id))
            infos += [] if info is None else [info]
    for info in infos:
        if updated_before is not None and info.updated_at >= updated_before:
            continue
        if strategy == "delete":
            yield from delete_thread(context, info.run_id)
        else:
            yield from _keep_latest(context, info)


def _keep_latest(context: Context, info: RunInfo) -> Operation[None]:
    """Write the latest checkpoints again, whole, and let the history begin with them.

    One step writes all of them, unless somebody has written to the thread meanwhile; what comes before them goes
    only after that.
    """
    thread_id, lease = info.run_id, context.known.lease_on(info.run_id)
    latest: dict[Place, Loaded] = {}
    states: dict[str | None, Any] = {}
    for lane in (yield from context.operations.lanes(thread_id)):
        place = Place.at(thread_id, lane.lane_id)
        loaded = None if place is None else (yield from load(context, place))
        if place is None or loaded is None:
            continue
        if place.is_of_one_task and lane.ended:
            states[lane.lane_id] = context.state(place, {})
        else:
            latest[place] = loaded
    if not latest or (not states and all(loaded.head.saved.is_pruned for loaded in latest.values())):
        return
    said: list[tuple[Place, str, str, Mapping[str, Any]]] = []
    for place, loaded in latest.items():
        offset = info.last_offset + 1 + len(said)
        yield from _write_again(context, place, loaded, offset, said, states)
    yield from append_said(context, thread_id, said, states, info.last_offset)
    context.known.forget_thread(thread_id)

    def truncate() -> Operation[Any]:
        return truncating(context.operations, thread_id, info.last_offset + 1, TruncateOptions(lease))

    yield from without_forks(truncate, context.operations.detach)


def _write_again(
    context: Context,
    place: Place,
    loaded: Loaded,
    offset: int,
    said: list[tuple[Place, str, str, Mapping[str, Any]]],
    states: dict[str | None, Any],
) -> Operation[None]:
    """Add what is to be written of one place: its latest checkpoint, whole, and what was written after it."""
    head = loaded.head
    deltas = sorted({*head.saved.metadata.get(_COUNTERS, ()), *(head.saved.history or ())})
    history = yield from history_of(context, place, head.saved, head.offset, deltas)
    channels = {name: _as_one(channel) for name, channel in head.channels.items()}
    saved = head.saved._replace(
        channels=table_of(channels),
        # the events after it are in the step that saves its state, which covers them
        is_preceded=bool(loaded.written),
        history=kept_history(history, context.values) or None,
        is_pruned=True,
    )
    said.append((place, saved.id, SAVED, payload_of(saved, channels)))
    said += [(place, saved.id, WRITES, written.apart.payload) for written in loaded.written]
    there = {name: channel.written_at(offset) for name, channel in channels.items()}
    states[place.lane_id] = context.state(place, state_of(saved._replace(channels=table_of(there)), there, offset))


def _as_one(channel: Channel) -> Channel:
    """A channel that is to be written whole."""
    return Channel(channel.is_list, [merged(channel.parts)])
