"""A checkpoint as events and snapshots have it, and what tasks wrote after it. Pure.

The event of a checkpoint has the checkpoint without its values, its metadata, the parts of values that are new
with it, and where the others lie. The snapshot of its lane is the same, with all of the parts: so the latest
checkpoint is one state of one lane.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from runstream.integrations.langgraph.channels import Channel, table_of
from runstream.integrations.langgraph.upstream import WRITES_IDX_MAP, PendingWrite, writes_sort_key
from runstream.integrations.langgraph.values import Value, Values

__all__ = ["Saved", "Written", "payload_of", "pending_writes", "state_of", "stored_part"]

_VALUES = "values"
_BESIDE = "channel_values"


class Saved(NamedTuple):
    """A checkpoint without its values.

    Attributes:
        checkpoint: Its fields that are plain data.
        metadata: Those of its metadata that are.
        others: The fields of both that are not, as values.
        parent: The id of its parent; None for none.
        channels: Where the values lie (:data:`~runstream.integrations.langgraph.channels.Table`).
        is_preceded: Whether tasks may have written after it before it was there itself.
        history: What its ancestors hold of channels that are kept as differences, where these are gone.
        is_pruned: Whether the thread was pruned to it: nothing comes before it.
    """

    checkpoint: Mapping[str, Any]
    metadata: Mapping[str, Any]
    others: Mapping[str, Mapping[str, Value]]
    parent: str | None
    channels: Mapping[str, Any]
    is_preceded: bool = False
    history: Mapping[str, Any] | None = None
    is_pruned: bool = False

    @classmethod
    def make(
        cls,
        values: Values,
        checkpoint: Mapping[str, Any],
        metadata: Mapping[str, Any],
        parent: str | None,
        channels: Mapping[str, Channel],
    ) -> Saved:
        """A checkpoint that is to be saved."""
        beside = {name: value for name, value in checkpoint.items() if name != _BESIDE}
        plain, other = values.dump_others(beside)
        plain_metadata, other_metadata = values.dump_others(metadata)
        others = {"checkpoint": other, "metadata": other_metadata}
        return cls(
            plain,
            plain_metadata,
            {name: found for name, found in others.items() if found},
            parent,
            table_of(channels),
        )

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Saved:
        """The checkpoint of an event's payload, or of a state."""
        return cls(
            fields["checkpoint"],
            fields["metadata"],
            fields.get("others", {}),
            fields["parent"],
            fields["channels"],
            fields.get("is_preceded", False),
            fields.get("history"),
            fields.get("is_pruned", False),
        )

    @property
    def id(self) -> str:
        """The id of the checkpoint."""
        checkpoint_id: str = self.checkpoint["id"]
        return checkpoint_id

    @property
    def fields(self) -> dict[str, Any]:
        """All of it by name; what is not said is left out."""
        fields: dict[str, Any] = {
            "checkpoint": self.checkpoint,
            "metadata": self.metadata,
            "parent": self.parent,
            "channels": self.channels,
        }
        if self.others:
            fields["others"] = self.others
        if self.is_preceded:
            fields["is_preceded"] = True
        if self.history is not None:
            fields["history"] = self.history
        if self.is_pruned:
            fields["is_pruned"] = True
        return fields

    def whole_metadata(self, values: Values) -> dict[str, Any]:
        """The metadata, as they were given."""
        return values.load_others(self.metadata, self.others.get("metadata", {}))

    def whole_checkpoint(self, values: Values, channels: Mapping[str, Channel]) -> dict[str, Any]:
        """The checkpoint with the values of its channels."""
        loaded = {name: channel.load(values) for name, channel in channels.items()}
        return {**values.load_others(self.checkpoint, self.others.get("checkpoint", {})), _BESIDE: loaded}


def payload_of(saved: Saved, channels: Mapping[str, Channel]) -> dict[str, Any]:
    """The payload of a checkpoint's event."""
    fresh = {name: channel.fresh.stored for name, channel in channels.items() if channel.fresh is not None}
    return {**saved.fields, _VALUES: fresh}


def stored_part(payload: Mapping[str, Any], channel: str) -> Any:
    """The part of a channel that an event has."""
    return payload[_VALUES][channel]


def state_of(saved: Saved, channels: Mapping[str, Channel], offset: int | None = None) -> dict[str, Any]:
    """The data of a lane's snapshot: each part of a value is a field of its own.

    Args:
        saved: The checkpoint.
        channels: Its values.
        offset: The offset of its event; None: the last that the snapshot covers, with which it is saved.
    """
    state = saved.fields
    if offset is not None:
        state["offset"] = offset
    for name, channel in channels.items():
        count = 0
        for part in channel.parts:
            state[part_name(name, count)] = part.stored
            count += part.count
    return state


def part_name(channel: str, count: int) -> str:
    """The field of a snapshot that has the part of a channel before which so many elements come."""
    return f"{count}:{channel}"


class Written(NamedTuple):
    """What one task wrote after a checkpoint, as an event has it.

    Attributes:
        checkpoint_id: The checkpoint.
        task_id: The task.
        task_path: Where it is in the graph.
        writes: Of each write its index, its channel and its value.
        is_apart: Whether it is found by its key alone, and does not follow the checkpoint in its lane.
        offset: The event's offset; 0 for one that is to be written.
    """

    checkpoint_id: str
    task_id: str
    task_path: str
    writes: Sequence[Sequence[Any]]
    is_apart: bool = False
    offset: int = 0

    @classmethod
    def of(cls, payload: Mapping[str, Any], offset: int) -> Written:
        """What the event at an offset says."""
        is_apart = payload.get("is_apart", False)
        return cls(payload["checkpoint"], payload["task"], payload["path"], payload["writes"], is_apart, offset)

    @classmethod
    def make(
        cls,
        checkpoint_id: str,
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[str, Any]],
        values: Values,
    ) -> Written:
        """What a task has written."""
        numbered = [
            [WRITES_IDX_MAP.get(channel, index), channel, values.dump(value)]
            for index, (channel, value) in enumerate(writes)
        ]
        return cls(checkpoint_id, task_id, task_path, numbered)

    @property
    def payload(self) -> dict[str, Any]:
        """The payload of its event."""
        payload = {
            "checkpoint": self.checkpoint_id,
            "task": self.task_id,
            "path": self.task_path,
            "writes": self.writes,
        }
        return {**payload, "is_apart": True} if self.is_apart else payload

    @property
    def apart(self) -> Written:
        """The same, to be found by its key."""
        return self._replace(is_apart=True)


def pending_writes(
    written: Iterable[Written], values: Values, channels: Sequence[str] | None = None
) -> list[PendingWrite]:
    """What tasks wrote after one checkpoint, in the order in which LangGraph applies it.

    Of two that have one number the first holds, as a task that is repeated writes the same; of errors, interrupts
    and their answers, which have numbers of their own, the last.

    Args:
        written: What was written, each once.
        values: Makes objects of values.
        channels: Only what was written to these; None: all.
    """
    kept: dict[tuple[str, int], tuple[str, str, Value]] = {}
    for task in sorted(written, key=lambda task: task.offset):
        for index, channel, value in task.writes:
            place = task.task_id, index
            if index < 0 or place not in kept:
                kept[place] = task.task_path, channel, value
    order = sorted(kept, key=lambda place: writes_sort_key(kept[place][0], *place))
    return [
        (place[0], channel, values.load(value))
        for place, (_, channel, value) in ((place, kept[place]) for place in order)
        if channels is None or channel in channels
    ]
