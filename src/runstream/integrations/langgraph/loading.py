"""Load checkpoints: the latest of a place, which is one state of a lane, and others by their ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from runstream.integrations.langgraph.channels import Channel, located, read_channel
from runstream.integrations.langgraph.context import Context
from runstream.integrations.langgraph.known import Head
from runstream.integrations.langgraph.mapping import CLEARED, SAVED, WRITES, Place, checkpoint_in
from runstream.integrations.langgraph.saved import Saved, Written, part_name, pending_writes, stored_part
from runstream.integrations.langgraph.upstream import CheckpointTuple, RunnableConfig
from runstream.model.errors import ConfigurationError, RunstreamError
from runstream.model.results import Recorded
from runstream.operations.arguments import ReadQuery
from runstream.operations.filters import field_of, lane_of, payload_of, text_of
from runstream.operations.operation import Operation, collect
from runstream.operations.together import together

__all__ = [
    "Loaded",
    "find_checkpoint",
    "find_following",
    "find_said",
    "gather",
    "get_tuple",
    "give",
    "is_cleared",
    "kind_of",
    "load",
    "payloads_at",
    "written_in",
]

T = TypeVar("T")

_NUMBERS_AT_ONCE = 32
_FIRST_PAGE, _LARGEST_PAGE = 3, 512  # events: the next checkpoint mostly follows what one or two tasks wrote


class Loaded(NamedTuple):
    """The latest checkpoint of a place, with what was said of it since."""

    head: Head
    written: Sequence[Written]


def get_tuple(context: Context, config: RunnableConfig) -> Operation[CheckpointTuple | None]:
    """Load the latest checkpoint of a place, or the one that a config names, with what tasks wrote after it."""
    place, checkpoint_id = Place.of(config), checkpoint_in(config)
    _, known = context.known.head(place)
    if checkpoint_id is None or (known is not None and known.saved.id == checkpoint_id):
        loaded = yield from load(context, place)
        if loaded is None:
            context.known.note_empty(place)
        elif checkpoint_id in (None, loaded.head.saved.id):
            return give(context, place, loaded.head.saved, loaded.head.channels, loaded.written, config)
        if checkpoint_id is None:
            return None
    found = yield from find_checkpoint(context, place, checkpoint_id)
    if found is None:
        return None
    head, written = found
    context.known.note_given(place, checkpoint_id, head.saved.parent)
    return give(context, place, head.saved, head.channels, written, config)


def load(context: Context, place: Place) -> Operation[Loaded | None]:
    """Load the latest checkpoint of a place: its lane's snapshot, and the events after that."""
    saves = context.known.saves(place)
    recovery = yield from context.operations.recover(place.thread_id, place.lane_id)
    data = {} if recovery.state is None else recovery.stored.get("data", {})
    said = [(kind_of(item), item.offset, payload_of(item.event)) for item in recovery.events]
    cleared = {payload["checkpoint"] for kind, _, payload in said if kind == CLEARED}
    own = [
        (offset, payload)
        for kind, offset, payload in said
        if kind == SAVED and payload["checkpoint"]["id"] not in cleared
    ]
    saved = Saved.of(data) if "checkpoint" in data else None
    offset = data.get("offset", recovery.offset)
    if own and (saved is None or own[-1][1]["checkpoint"]["id"] != saved.id):
        # the snapshot is not the latest checkpoint's: this was put back from an archive, or forked before it
        offset, payload = own[-1]
        saved = Saved.of(payload)
        channels = yield from gather(context, place, saved, offset, dict(own))
    elif saved is None:
        context.known.note_head(place, None, saves)
        return None
    else:
        offset = own[-1][0] if own else offset
        channels = {
            name: read_channel(entry, offset, partial(_of_state, data, name))
            for name, entry in saved.channels.items()
        }
    head = Head(saved, channels, offset)
    context.known.note_head(place, head, saves)
    written = [
        Written.of(payload, offset)
        for kind, offset, payload in said
        if kind == WRITES and payload["checkpoint"] == saved.id
    ]
    context.known.note_numbers(place, saved.id, sum(each.is_apart for each in written))
    if saved.is_preceded:
        of_it = yield from find_said(context, [(place, saved.id)])
        written = [*(each for each in written if not each.is_apart), *written_in(of_it[place, saved.id])]
    return Loaded(head, written)


def gather(
    context: Context, place: Place, saved: Saved, offset: int, at_hand: Mapping[int, Mapping[str, Any]]
) -> Operation[dict[str, Channel]]:
    """The channels of a checkpoint, from the events that have their parts.

    Args:
        context: What the saver works with.
        place: Where the checkpoint is.
        saved: The checkpoint.
        offset: The offset of its event.
        at_hand: Payloads by offset, its own among them: these are not read again.
    """
    wanted = {each for entry in saved.channels.values() for each in located(entry, offset)}
    payloads = {**at_hand, **(yield from payloads_at(context, place, wanted.difference(at_hand)))}
    return {
        name: read_channel(entry, offset, partial(_of_events, payloads, name))
        for name, entry in saved.channels.items()
    }


def _of_state(data: Mapping[str, Any], channel: str, _offset: int, count: int) -> Any:
    return data[part_name(channel, count)]


def _of_events(payloads: Mapping[int, Mapping[str, Any]], channel: str, offset: int, _count: int) -> Any:
    return stored_part(payloads[offset], channel)


def find_checkpoint(
    context: Context, place: Place, checkpoint_id: str
) -> Operation[tuple[Head, Sequence[Written]] | None]:
    """A checkpoint by its id, with what was written after it; None for one that is not there."""
    named = [(place, checkpoint_id)]
    # where it was known to lie before: that is read in the same step, up to the one that came next if that still
    # lies there, too
    known = context.known.located(place, checkpoint_id)
    keys = [place.key(each) for each in (checkpoint_id, "" if known is None else known.next_id) if each]
    found = _find_offsets(context, named, keys)
    if known is not None:
        end = known.next_offset or None
        presumed = _unless_moved(_read_on(context, place, checkpoint_id, known.offset, known.offset - 1, end))
        parts = _unless_moved(payloads_at(context, place, known.parts))
        (offsets, further), there, at_hand = yield from together(found, presumed, parts)
    else:
        (offsets, further), there, at_hand = (yield from found), None, None
    said = (yield from _said_at(context, named, further))[place, checkpoint_id]
    if is_cleared(said):
        return None
    offset = next((item.offset for item in reversed(said) if kind_of(item) == SAVED), offsets[0])
    if offset is None:
        return None
    is_there = known is not None and offset == known.offset and offsets[1:] in ([], [known.next_offset])
    if not is_there or there is None:
        there = yield from _read_on(context, place, checkpoint_id, offset, offset - 1)
    own, following = there
    if own is None:
        return None
    payload = payload_of(own.event)
    saved = Saved.of(payload)
    channels = yield from gather(context, place, saved, offset, {**(at_hand or {}), offset: payload})
    context.known.note_located(place, checkpoint_id, offset, saved.channels)
    return Head(saved, channels, offset), [*following, *written_in(said)]


def _unless_moved(operation: Operation[T]) -> Operation[T | None]:
    """What an operation reads of where something lay; None if it cannot be read there."""
    try:
        return (yield from operation)
    except RunstreamError:
        return None


def find_following(context: Context, place: Place, checkpoint_id: str, offset: int) -> Operation[list[Written]]:
    """What was written while a checkpoint was the latest: what follows it in its lane, up to the next one.

    Args:
        context: What the saver works with.
        place: Where the checkpoint is.
        checkpoint_id: Its id.
        offset: The offset of its event.
    """
    _, written = yield from _read_on(context, place, checkpoint_id, offset, offset)
    return written


def _read_on(
    context: Context, place: Place, checkpoint_id: str, offset: int, after: int, end: int | None = None
) -> Operation[tuple[Recorded[Any] | None, list[Written]]]:
    """The event of a checkpoint, if it comes after ``after`` and is there; and what follows it before ``end``."""
    own: Recorded[Any] | None = None
    written: list[Written] = []
    size = offset - after + _FIRST_PAGE if end is None else min(end - after - 1, _LARGEST_PAGE)
    while True:
        query = ReadQuery(after, before=end, limit=size)
        items: list[Recorded[Any]] = yield from collect(context.operations.read(place.thread_id, query))
        for item in items:
            if item.offset == offset:
                own = item
                continue
            if lane_of(item.event) != place.lane_id:
                continue
            kind, payload = kind_of(item), payload_of(item.event)
            if kind == SAVED:
                return own, written
            if kind == WRITES and payload["checkpoint"] == checkpoint_id and not payload.get("is_apart"):
                written.append(Written.of(payload, item.offset))
        if len(items) < size or items[-1].offset + 1 == end:
            return own, written
        after, size = items[-1].offset, min(2 * size, _LARGEST_PAGE)


def find_said(
    context: Context, named: Sequence[tuple[Place, str]], *, with_own: bool = False
) -> Operation[dict[tuple[Place, str], list[Recorded[Any]]]]:
    """The events about checkpoints of one thread that have a key, by place and id, in the order of the log.

    Args:
        context: What the saver works with.
        named: The checkpoints.
        with_own: Whether the events of the checkpoints themselves are wanted, too.
    """
    keys = [place.key(name) for place, name in named] if with_own else []
    own, further = yield from _find_offsets(context, named, keys)
    return (yield from _said_at(context, named, further | {offset for offset in own if offset is not None}))


def _find_offsets(
    context: Context, named: Sequence[tuple[Place, str]], keys: Sequence[str]
) -> Operation[tuple[list[int | None], set[int]]]:
    """The offsets of the events with these keys; and of what else is said of checkpoints under a key.

    A number that was taken may never have been used: it is looked beyond that, until none follows for long.
    """
    owns: list[int | None] = []
    offsets: set[int] = set()
    asked, first = list(named), 0
    while asked:
        numbers = range(first, first + _NUMBERS_AT_ONCE)
        further = [place.further_key(name, number) for place, name in asked for number in numbers]
        own = keys if first == 0 else ()
        found = yield from context.operations.find(asked[0][0].thread_id, [*own, *further])
        owns += found[: len(own)]
        found = found[len(own) :]
        offsets.update(offset for offset in found if offset is not None)
        for (place, name), number, offset in zip(
            (each for each in asked for _ in numbers), [*numbers] * len(asked), found, strict=True
        ):
            if offset is not None:
                context.known.note_numbers(place, name, number + 1)
        by_name = [found[begin : begin + _NUMBERS_AT_ONCE] for begin in range(0, len(found), _NUMBERS_AT_ONCE)]
        asked = [each for each, these in zip(asked, by_name, strict=True) if any(these[_NUMBERS_AT_ONCE // 2 :])]
        first += _NUMBERS_AT_ONCE
    return owns, offsets


def _said_at(
    context: Context, named: Sequence[tuple[Place, str]], offsets: Collection[int]
) -> Operation[dict[tuple[Place, str], list[Recorded[Any]]]]:
    """The events at these offsets that are about some checkpoints of one thread, by place and id."""
    said: dict[tuple[Place, str], list[Recorded[Any]]] = {each: [] for each in named}
    if not offsets:
        return said
    thread_id = named[0][0].thread_id
    for item in (yield from _events_at(context, thread_id, offsets)):
        payload = payload_of(item.event)
        name = payload["checkpoint"]["id"] if kind_of(item) == SAVED else payload["checkpoint"]
        where = Place.at(thread_id, lane_of(item.event))
        if where is not None and (where, name) in said:
            said[where, name].append(item)
    return said


def written_in(said: Iterable[Recorded[Any]]) -> list[Written]:
    """What was written after a checkpoint, of the events about it that have a key."""
    return [Written.of(payload_of(item.event), item.offset) for item in said if kind_of(item) == WRITES]


def is_cleared(said: Iterable[Recorded[Any]]) -> bool:
    """Whether the events about a checkpoint say that it is there no more."""
    return any(kind_of(item) == CLEARED for item in said)


def payloads_at(context: Context, place: Place, offsets: Iterable[int]) -> Operation[dict[int, dict[str, Any]]]:
    """The payloads of events by their offsets."""
    wanted = sorted(offsets)
    if not wanted:
        return {}
    found = yield from context.operations.read_at(place.thread_id, wanted)
    return {item.offset: payload_of(item.event) for item in found}


def _events_at(context: Context, thread_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[Any]]]:
    """Events by their offsets, in the order of the log; without those that are there no more."""
    wanted = sorted(offsets)
    try:
        return (yield from context.operations.read_at(thread_id, wanted))
    except ConfigurationError:  # some have been erased, or lie before the beginning of what is left
        found = []
        for offset in wanted:
            found += yield from collect(context.operations.read(thread_id, ReadQuery.one(offset)))
        return found


def give(
    context: Context,
    place: Place,
    saved: Saved,
    channels: Mapping[str, Channel],
    written: Sequence[Written],
    config: RunnableConfig | None = None,
) -> CheckpointTuple:
    """A checkpoint as LangGraph has it.

    Args:
        context: What the saver works with.
        place: Where it is.
        saved: The checkpoint.
        channels: Its values.
        written: What was written after it.
        config: The config that asked for it; one that names it comes back as it is.
    """
    named = config is not None and checkpoint_in(config) is not None
    parent = None if saved.parent is None else place.config(saved.parent)
    return CheckpointTuple(
        config if named else place.config(saved.id),  # type: ignore[arg-type]  # as LangGraph's own savers give it
        saved.whole_checkpoint(context.values, channels),  # type: ignore[arg-type]  # a dict with the same keys
        saved.whole_metadata(context.values),  # type: ignore[arg-type]  # likewise
        parent,  # type: ignore[arg-type]  # likewise
        pending_writes(written, context.values),
    )


def kind_of(item: Recorded[Any]) -> str:
    """The kind of an event, as text."""
    kind: str = text_of(field_of(item.event, "kind"))
    return kind
