"""Save checkpoints, and what tasks write after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.integrations.langgraph.channels import Channel, split
from runstream.integrations.langgraph.context import Context
from runstream.integrations.langgraph.known import FOLLOWS, Head
from runstream.integrations.langgraph.loading import load
from runstream.integrations.langgraph.mapping import SAVED, THREAD_TAGS, WRITES, Place, checkpoint_in, run_tag
from runstream.integrations.langgraph.saved import Saved, Written, payload_of, state_of
from runstream.integrations.langgraph.upstream import RunnableConfig, get_checkpoint_metadata
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    DurabilityNotReached,
    EncodingError,
)
from runstream.operations.arguments import AppendOptions
from runstream.operations.interface import AppendResult
from runstream.operations.operation import Operation, Pause, settled

__all__ = ["put", "put_writes", "save_written"]

_MOMENT_SECONDS = 0.001


def put(
    context: Context,
    config: RunnableConfig,
    checkpoint: Mapping[str, Any],
    metadata: Any,
    new_versions: Mapping[str, Any],
    *,
    anywhere: bool = False,
) -> Operation[RunnableConfig]:
    """Save a checkpoint: its event and the lane's snapshot, in one step that another writer's refuses.

    Args:
        context: What the saver works with.
        config: Names the place and the parent.
        checkpoint: The checkpoint.
        metadata: Its metadata.
        new_versions: The versions of the channels that have changed.
        anywhere: Whether it may have any parent: for what copies a history that another saver has.
    """
    place, parent = Place.of(config), checkpoint_in(config)
    metadata = get_checkpoint_metadata(config, metadata)
    with context.known.saving(place, checkpoint["id"]):
        while context.known.is_writing(place):
            yield Pause(_MOMENT_SECONDS)
        is_known, head = context.known.head(place)
        try:
            if not is_known:
                head = yield from _latest(context, place)
            if not anywhere:
                context.known.check_follows(place, head, parent, metadata.get("step") or 0)
            yield from _put(context, place, head, parent, checkpoint, metadata, new_versions)
        except ConcurrencyConflict:
            # what is known may be what another thread has loaded too late: if nobody else has written, it goes on
            head = yield from _latest(context, place)
            if parent is None or head is None or head.saved.id != parent:
                raise
            yield from _put(context, place, head, parent, checkpoint, metadata, new_versions)
    return place.config(checkpoint["id"])  # type: ignore[return-value]  # as LangGraph's own savers give it


def _latest(context: Context, place: Place) -> Operation[Head | None]:
    loaded = yield from load(context, place)
    return None if loaded is None else loaded.head


def _put(
    context: Context,
    place: Place,
    former: Head | None,
    parent: str | None,
    checkpoint: Mapping[str, Any],
    metadata: Mapping[str, Any],
    new_versions: Mapping[str, Any],
) -> Operation[None]:
    known = context.known
    channels = _channels_of(context, former, parent, checkpoint, new_versions)
    saved = Saved.make(context.values, checkpoint, metadata, parent, channels)
    if known.was_written_after(place, saved.id):
        saved = saved._replace(is_preceded=True)
    done = [] if place.namespace else known.take_tasks(place.thread_id)
    options: AppendOptions[Any] = AppendOptions(
        keys=[place.key(saved.id)],
        lease=known.lease_on(place.thread_id),
        snapshot=context.state(place, state_of(saved, channels)),
        lane_id=place.lane_id,
        # what was ended leaves Redis, once archived; then only a store with that archive can open a new lane
        end_lanes=[task.lane_id for task in done] if context.reads_archived else (),
        tags=_tags(former, metadata),
    )
    event = context.event(place, SAVED, payload_of(saved, channels))
    try:
        result, shortfall = yield from settled(_append(context, place, event, options))
    except BaseException:
        known.forget_head(place)
        raise
    if result.known:
        known.forget_head(place)  # that very checkpoint was saved before
    else:
        if place.is_of_one_task:
            known.note_task(place)
        offset = result.cursors[0].offset
        channels = {name: channel.written_at(offset) for name, channel in channels.items()}
        known.note_saved(place, parent, Head(saved, channels, offset))
        known.note_located(place, saved.id, offset, saved.channels, former)
    if shortfall is not None:
        raise shortfall


def _append(context: Context, place: Place, event: Any, options: AppendOptions[Any]) -> Operation[AppendResult]:
    """Append a checkpoint; of a thread that has as many tags as it may, without the one of LangGraph's run."""
    try:
        return (yield from context.operations.append(place.thread_id, [event], options))
    except EncodingError as error:
        if error.path != "tags" or not options.tags:
            raise
    return (yield from context.operations.append(place.thread_id, [event], options._replace(tags=None)))


def _channels_of(
    context: Context,
    former: Head | None,
    parent: str | None,
    checkpoint: Mapping[str, Any],
    new_versions: Mapping[str, Any],
) -> dict[str, Channel]:
    """The channels of a checkpoint in parts. What has not changed since its parent is not looked at."""
    before = {} if former is None else former.channels
    same: Mapping[str, Any] = {}
    if former is not None and former.saved.id == parent:
        same = former.saved.checkpoint.get("channel_versions", {})
    versions = checkpoint["channel_versions"]
    channels = {}
    for name, value in checkpoint["channel_values"].items():
        was = before.get(name)
        version = versions.get(name)
        if was is not None and name not in new_versions and version is not None and same.get(name) == version:
            channels[name] = was
        else:
            channels[name] = split(was, value, context.values)
    return channels


def _tags(former: Head | None, metadata: Mapping[str, Any]) -> dict[str, str | None] | None:
    """The tags that a checkpoint changes: that the run is a thread, and LangGraph's own run on it."""
    tags: dict[str, str | None] = {} if former is not None else {**THREAD_TAGS}
    run_id = metadata.get("run_id")
    if isinstance(run_id, str) and (former is None or former.saved.metadata.get("run_id") != run_id):
        tags[run_tag(run_id)] = ""
    return tags or None


def put_writes(
    context: Context, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
) -> Operation[None]:
    """Save what a task wrote after a checkpoint, be that there already or not."""
    place, checkpoint_id = Place.of(config), checkpoint_in(config)
    if checkpoint_id is None:
        raise ConfigurationError(
            "the config of put_writes names no checkpoint_id: what was written belongs to one"
        )
    written = Written.make(checkpoint_id, task_id, task_path, writes, context.values)
    yield from save_written(context, place, written)


def save_written(context: Context, place: Place, written: Written) -> Operation[None]:
    """Append what a task wrote: right behind the checkpoint while that is the latest, else under a key."""
    known = context.known
    while (number := known.begin_writing(place, written.checkpoint_id)) is None:
        yield Pause(_MOMENT_SECONDS)
    if number == FOLLOWS:
        try:
            event = context.event(place, WRITES, written.payload)
            options: AppendOptions[Any] = AppendOptions(lease=known.lease_on(place.thread_id))
            _, shortfall = yield from settled(context.operations.append(place.thread_id, [event], options))
        finally:
            known.end_writing(place)
    else:
        shortfall = yield from _say(context, place, written.apart, number)
    if place.is_of_one_task:
        known.note_task(place)
    if shortfall is not None:
        raise shortfall


def _say(context: Context, place: Place, written: Written, number: int) -> Operation[DurabilityNotReached | None]:
    """Append what a task wrote under a number, or the first one after that which nobody has taken.

    Returns what tells that it is not as durable as was asked for.
    """
    event = context.event(place, WRITES, written.payload)
    lease = context.known.lease_on(place.thread_id)
    while True:
        key = place.further_key(written.checkpoint_id, number)
        try:
            options: AppendOptions[Any] = AppendOptions(keys=[key], lease=lease)
            result, shortfall = yield from settled(context.operations.append(place.thread_id, [event], options))
        except BaseException:
            context.known.give_back(place, written.checkpoint_id, number)
            raise
        if not result.known:
            return shortfall
        number = context.known.take_number(place, written.checkpoint_id)
