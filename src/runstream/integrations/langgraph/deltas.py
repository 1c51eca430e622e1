"""What a DeltaChannel is rebuilt from: the writes after each ancestor of a checkpoint, back to a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runstream.integrations.langgraph.context import Context
from runstream.integrations.langgraph.history import Backward
from runstream.integrations.langgraph.loading import find_said, gather, kind_of, load
from runstream.integrations.langgraph.mapping import SAVED, Place, checkpoint_in
from runstream.integrations.langgraph.saved import Saved, Written, pending_writes
from runstream.integrations.langgraph.upstream import DeltaChannelHistory, RunnableConfig
from runstream.integrations.langgraph.values import Value, Values
from runstream.operations.filters import payload_of
from runstream.operations.operation import Operation

__all__ = ["delta_history", "history_of", "kept_history"]


def delta_history(
    context: Context, config: RunnableConfig, channels: Sequence[str]
) -> Operation[Mapping[str, DeltaChannelHistory]]:
    """For each channel the writes on the way to a checkpoint, the oldest first, and the value before them."""
    if not channels:
        return {}
    place, checkpoint_id = Place.of(config), checkpoint_in(config)
    target = yield from _target(context, place, checkpoint_id)
    if target is None:
        return {channel: {"writes": []} for channel in channels}
    return (yield from history_of(context, place, *target, channels))


def history_of(
    context: Context, place: Place, target: Saved, offset: int, channels: Sequence[str]
) -> Operation[dict[str, DeltaChannelHistory]]:
    """The same of a checkpoint that is at hand.

    Args:
        context: What the saver works with.
        place: Where it is.
        target: The checkpoint.
        offset: The offset of its event.
        channels: The channels.
    """
    walk = _Walk(context.values, channels)
    walk.take_kept(target)
    parent, log = target.parent, Backward(context, place.thread_id, place, offset, with_cleared=True)
    while walk.open and parent is not None and (page := (yield from log.page())) is not None:
        at_hand = {found.offset: found.payload for found in page}
        line = []
        for found in page:
            if found.saved.id == parent:
                parent = found.saved.parent
                line.append(found)
        for found in (yield from log.completed(line)):
            if not walk.open:
                break
            saved = found.saved
            begins = walk.take_written(saved, found.written)
            of_these = saved._replace(channels={channel: saved.channels[channel] for channel in begins})
            values = yield from gather(context, place, of_these, found.offset, at_hand)
            walk.seeds.update((channel, value.load(context.values)) for channel, value in values.items())
            walk.take_kept(saved)
    return walk.history()


class _Walk:
    """What was found of channels on the way from a checkpoint to its ancestors."""

    def __init__(self, values: Values, channels: Iterable[str]) -> None:
        self._values = values
        self._writes: dict[str, list[Any]] = {channel: [] for channel in channels}
        self.seeds: dict[str, Any] = {}
        self.open = set(self._writes)

    def take_written(self, saved: Saved, written: Sequence[Written]) -> list[str]:
        """Take what was written after an ancestor; give the channels of which it has the value before that."""
        for task_id, channel, value in reversed(pending_writes(written, self._values, list(self.open))):
            self._writes[channel].append((task_id, channel, value))
        begins = sorted(self.open.intersection(saved.channels))
        self.open.difference_update(begins)
        return begins

    def take_kept(self, saved: Saved) -> None:
        """Take what a checkpoint keeps of ancestors that are gone."""
        for channel in self.open.intersection(saved.history or ()):
            kept: Mapping[str, Any] = (saved.history or {})[channel]
            loaded = [(task, channel, self._values.load(value)) for task, value in kept["writes"]]
            self._writes[channel] += reversed(loaded)
            if "seed" in kept:
                self.seeds[channel] = self._values.load(kept["seed"])
            self.open.discard(channel)

    def history(self) -> dict[str, DeltaChannelHistory]:
        """For each channel the writes, the oldest first, and the value before them where there is one."""
        found: dict[str, DeltaChannelHistory] = {}
        for channel, writes in self._writes.items():
            found[channel] = {"writes": writes[::-1]}
            if channel in self.seeds:
                found[channel]["seed"] = self.seeds[channel]
        return found


def kept_history(history: Mapping[str, DeltaChannelHistory], values: Values) -> dict[str, Any]:
    """A history as a checkpoint keeps it whose ancestors are to go."""
    kept: dict[str, Any] = {}
    for channel, found in history.items():
        writes: list[tuple[str, Value]] = [(task, values.dump(value)) for task, _, value in found["writes"]]
        kept[channel] = {"writes": writes}
        if "seed" in found:
            kept[channel]["seed"] = values.dump(found["seed"])
    return kept


def _target(context: Context, place: Place, checkpoint_id: str | None) -> Operation[tuple[Saved, int] | None]:
    """A checkpoint and the offset of its event."""
    _, known = context.known.head(place)
    if checkpoint_id is None:
        loaded = yield from load(context, place)
        return None if loaded is None else (loaded.head.saved, loaded.head.offset)
    if known is not None and known.saved.id == checkpoint_id:
        return known.saved, known.offset
    said = yield from find_said(context, [(place, checkpoint_id)], with_own=True)
    saved = [item for item in said[place, checkpoint_id] if kind_of(item) == SAVED]
    return (Saved.of(payload_of(saved[-1].event)), saved[-1].offset) if saved else None
