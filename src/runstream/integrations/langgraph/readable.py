"""What a LangGraph checkpointer keeps, as people read it: channels by name, messages by who said what, questions.

Values are LangGraph's own msgpack. It is read here without LangGraph, which takes a second to import and may not
be installed where an operator looks at runs; objects of a user's classes are shown as the data that made them.
Whatever producers wrote, nothing here raises: a value that does not read is a text that says so, and what is no
checkpointer's stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial, reduce
from typing import Any

import msgpack

from runstream.codec.lossless_json import dump_json
from runstream.integrations.langgraph.channels import located, read_channel
from runstream.integrations.langgraph.mapping import CLEARED, SAVED, WRITES
from runstream.model.errors import EventsArchived
from runstream.model.results import Recorded, Snapshot
from runstream.stores.protocol import RunStore

__all__ = [
    "LastCheckpoint",
    "checkpoint_at",
    "checkpoint_of",
    "is_checkpoint",
    "last_checkpoint",
    "readable_payload",
    "readable_state",
    "value_offsets",
]

_INTERRUPT = "__interrupt__"
_NAMES = {_INTERRUPT: "asks", "__resume__": "answered", "__error__": "error"}
_OWN = ("branch:", "__start__", "__pregel", "__no_writes__")  # channels of LangGraph itself begin so
_ID_CHARACTERS = 8  # of a task, that tell it from others
_LEVELS = 16  # by which what is shown of a value may be nested deeper than the value
_BEFORE = 1000  # events before a checkpoint, among which is what its tasks had written by then
_NUMPY_ARRAY, _DELTA_SNAPSHOT = 6, 7  # codes of extension types; in those of all others the data stands third


def readable_payload(kind: object, payload: Any) -> Any:
    """The payload of an event; of a checkpointer's, the step, the channels that changed, or what a task wrote."""
    if kind not in {SAVED, WRITES, CLEARED} or not isinstance(payload, Mapping) or "checkpoint" not in payload:
        return payload
    try:
        return _readable_payload(kind, payload)
    except Exception:  # noqa: BLE001 - it is of a producer that means something else by this kind
        return payload


def _readable_payload(kind: object, payload: Mapping[str, Any]) -> Any:
    if kind == SAVED and _has_checkpoint(payload):
        return _step(payload) | {
            name: _value(value, is_list=isinstance(payload["channels"].get(name), list))
            for name, value in payload.get("values", {}).items()
            if _is_shown(name)
        }
    if kind == WRITES and "writes" in payload:
        wrote = ((name, _readable(value)) for _, name, value in payload["writes"] if _is_shown(name))
        named = {
            _NAMES.get(name, name): _questions(value) if name == _INTERRUPT else value for name, value in wrote
        }
        return {"task": str(payload.get("task", ""))[:_ID_CHARACTERS]} | named
    return payload


def is_checkpoint(state: Any) -> bool:
    """Whether a state is the latest checkpoint of a lane."""
    return isinstance(state, Mapping) and _has_checkpoint(state.get("data"))


def _has_checkpoint(fields: Any) -> bool:
    """Whether the data of a state, or the payload of an event, have a checkpoint."""
    return isinstance(fields, Mapping) and all(
        isinstance(fields.get(name), Mapping) for name in ("checkpoint", "metadata", "channels")
    )


class LastCheckpoint:
    """The last checkpoint of a lane and what was said since, looked for in a run's events from the last one back.

    What the tasks of a checkpoint wrote may stand before it, even before the one that precedes it: LangGraph saves
    each in a thread of its own.

    Args:
        lane_id: The lane.

    Attributes:
        saved: The event that saved it; None where it is not among those that were looked at.
    """

    def __init__(self, lane_id: str) -> None:
        self.saved: Recorded[Any] | None = None
        self._lane_id = lane_id
        self._written: list[Any] = []
        self._left = _BEFORE

    def take(self, item: Recorded[Any]) -> bool:
        """Look at the event before those that were looked at. Returns whether to go on."""
        event = item.event
        if event.kind == WRITES:
            self._written.append(event)
        if self.saved is not None:
            self._left -= 1
        elif event.kind == SAVED and event.lane_id == self._lane_id and _has_checkpoint(event.payload):
            self.saved = item
            return bool(event.payload.get("is_preceded"))
        return self._left > 0

    def readable(self, state: Mapping[str, Any]) -> Any:
        """The state of the lane as people read it, with what is asked of them."""
        questions = _pending_questions(state["data"]["checkpoint"].get("id"), reversed(self._written))
        return readable_state(state, questions)


def last_checkpoint(store: RunStore[Any, Any], run_id: str, lane_id: str, at: int | None) -> LastCheckpoint:
    """The last checkpoint of a lane, up to an offset; as much of it as the store has."""
    found = LastCheckpoint(lane_id)
    before = None if at is None else at + 1
    with suppress(EventsArchived):  # what was found by then holds
        for item in store.read(run_id, before=before, reverse=True, on_corrupt="skip"):
            if not found.take(item):
                break
    return found


def checkpoint_at(store: RunStore[Any, Any], run_id: str, lane_id: str, at: int) -> Snapshot[Any] | None:
    """The latest checkpoint of a lane up to an offset as its snapshot was, made of the events; None for none."""
    saved = last_checkpoint(store, run_id, lane_id, at).saved
    if saved is None:
        return None
    return checkpoint_of(saved, store.read_at(run_id, value_offsets(saved)))


def value_offsets(saved: Recorded[Any]) -> list[int]:
    """The offsets of the events that have the values of a checkpoint's channels, given the event that saved it."""
    try:
        entries = saved.event.payload["channels"].values()
        return sorted({offset for entry in entries for offset in located(entry, saved.offset)})
    except (AttributeError, LookupError, TypeError, ValueError):
        return []  # it is no checkpointer's


def checkpoint_of(saved: Recorded[Any], events: Iterable[Recorded[Any]]) -> Snapshot[Any] | None:
    """A checkpoint as the snapshot of its lane was, made of the event that saved it; None if it is none.

    Args:
        saved: That event.
        events: Those that have its values.
    """
    own, offset = saved.event.payload, saved.offset
    payloads = {item.offset: item.event.payload for item in events}
    try:
        data = {name: own[name] for name in ("checkpoint", "metadata", "channels")}
        for name, entry in own["channels"].items():
            channel = read_channel(entry, offset, partial(_part_at, payloads, name))
            count = 0
            for part in channel.parts:
                data[f"{count}:{name}"] = part.stored
                count += part.count
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    return Snapshot({"run_id": saved.event.run_id, "data": data}, offset, 0)


def _part_at(payloads: Mapping[int, Any], channel: str, offset: int, _count: int) -> Any:
    return payloads[offset]["values"][channel]


def readable_state(state: Mapping[str, Any], questions: list[Any]) -> Mapping[str, Any]:
    """A state that is a checkpoint: its step, the values of its channels, and what is asked of people."""
    try:
        return _readable_state(state, questions)
    except Exception:  # noqa: BLE001 - a producer may keep anything under these names
        return state


def _readable_state(state: Mapping[str, Any], questions: list[Any]) -> dict[str, Any]:
    data = state["data"]
    step = _step(data)
    found = {"current_step": step.pop("step", None), "checkpoint": data["checkpoint"].get("id"), **step}
    parts: dict[str, list[tuple[int, Any]]] = {}
    for field, value in data.items():
        count, colon, name = field.partition(":")
        if colon and count.isdecimal() and name in data["channels"] and _is_shown(name):
            parts.setdefault(name, []).append((int(count), value))
    for name, held in parts.items():
        held.sort(key=lambda part: part[0])
        is_list = isinstance(data["channels"][name], list)
        values = [_value(value, is_list=is_list) for _, value in held]
        parts_of = (part if isinstance(part, list) else [part] for part in values)
        found[name] = [each for part in parts_of for each in part] if is_list else values[0]
    return found | ({"asks": questions} if questions else {})


def _pending_questions(checkpoint_id: object, events: Iterable[Any]) -> list[Any]:
    """What tasks asked after a checkpoint and are not done with, of the events that came after it."""
    asked: dict[str, list[Any]] = {}
    done: set[str] = set()
    for event in events:
        payload = event.payload
        if not isinstance(payload, Mapping) or payload.get("checkpoint") != checkpoint_id:
            continue
        with suppress(Exception):  # it is of a producer that means something else by this kind
            for index, name, value in payload["writes"]:
                if name == _INTERRUPT:
                    asked[payload["task"]] = _questions(_readable(value))
                elif index >= 0:
                    done.add(payload["task"])
    return [question for task, questions in asked.items() if task not in done for question in questions]


def _questions(interrupts: Any) -> list[Any]:
    """What is asked by interrupts: their values."""
    found = interrupts if isinstance(interrupts, list) else [interrupts]
    return [one["value"] if isinstance(one, Mapping) and "value" in one else one for one in found]


def _step(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields["metadata"][name] for name in ("source", "step") if name in fields["metadata"]}


def _is_shown(channel: str) -> bool:
    return not channel.startswith(_OWN)


def _value(value: Any, *, is_list: bool) -> Any:
    """What is kept of a channel: of a list, that is one value with all of its elements, or one for each."""
    return list(map(_readable, value)) if is_list and not isinstance(value, bytes) else _readable(value)


def _readable(value: Any) -> Any:
    """A value as data that can be shown, or the name of what does not read."""
    if not isinstance(value, bytes) and not (isinstance(value, list | tuple) and len(value) == 2):
        return "(value that does not read)"
    kind, data = ("msgpack", value) if isinstance(value, bytes) else value
    if kind in {"null", "bytes", "bytearray"}:
        return None if kind == "null" else data
    size = len(data) if isinstance(data, bytes | str) else 0
    if kind not in {"msgpack", "json"}:
        return f"({kind!s:.80}, {size} bytes)"
    try:
        found = _unpacked(data) if kind == "msgpack" else json.loads(data)
        dump_json(reduce(lambda inner, _: [inner], range(_LEVELS), found))  # it is to be shown among others
    except Exception:  # noqa: BLE001 - whatever is in there may raise anything
        return f"({kind} that does not read, {size} bytes)"
    return found


def _unpacked(data: bytes) -> Any:
    return msgpack.unpackb(
        data, ext_hook=_of_extension, strict_map_key=False, timestamp=3, object_pairs_hook=_mapping
    )


def _mapping(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict, also of keys that are lists in msgpack, and in Python are tuples."""
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    return tuple(map(_key, key)) if isinstance(key, list) else key


def _of_extension(code: int, data: bytes) -> Any:
    """An object as the data that it was made of; a message as who said what."""
    found = _unpacked(data)
    if code == _DELTA_SNAPSHOT:
        return found
    if code == _NUMPY_ARRAY:
        return f"(array of {found[0]}, {found[1]})"
    made_of = found[2]
    if isinstance(made_of, dict) and isinstance(made_of.get("type"), str) and "content" in made_of:
        calls = [call.get("name") for call in made_of.get("tool_calls") or [] if isinstance(call, dict)]
        return {made_of["type"]: made_of["content"]} | ({"calls": calls} if calls else {})
    return made_of
