"""What a LangGraph checkpointer keeps, as people read it: channels by name, messages by who said what, questions.

Values are LangGraph's own msgpack. It is read here without LangGraph, which takes a second to import and may not
be installed where an operator looks at runs; objects of a user's classes are shown as the data that made them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import msgpack

from runstream.integrations.langgraph.channels import located, read_channel
from runstream.integrations.langgraph.mapping import CLEARED, SAVED, WRITES
from runstream.model.results import Recorded, Snapshot
from runstream.stores.protocol import RunStore

__all__ = [
    "checkpoint_at",
    "checkpoint_of",
    "is_checkpoint",
    "pending_questions",
    "readable_payload",
    "readable_state",
    "value_offsets",
]

_INTERRUPT = "__interrupt__"
_NAMES = {_INTERRUPT: "asks", "__resume__": "answered", "__error__": "error"}
_OWN = ("branch:", "__start__", "__pregel", "__no_writes__")  # channels of LangGraph itself begin so
_ID_CHARACTERS = 8  # of a task, that tell it from others
_NUMPY_ARRAY, _DELTA_SNAPSHOT = 6, 7  # codes of extension types; in those of all others the data stands third


def readable_payload(kind: object, payload: Any) -> Any:
    """The payload of an event; of a checkpointer's, the step, the channels that changed, or what a task wrote."""
    if kind not in {SAVED, WRITES, CLEARED} or not isinstance(payload, Mapping) or "checkpoint" not in payload:
        return payload
    if kind == SAVED and "channels" in payload:
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
    data = state.get("data") if isinstance(state, Mapping) else None
    return isinstance(data, Mapping) and {"checkpoint", "metadata", "channels"} <= data.keys()


def checkpoint_at(store: RunStore[Any, Any], run_id: str, lane_id: str, at: int) -> Snapshot[Any] | None:
    """The latest checkpoint of a lane up to an offset as its snapshot was, made of the events; None for none."""
    events = store.read(run_id, before=at + 1, reverse=True, on_corrupt="skip")
    found = next((item for item in events if item.event.kind == SAVED and item.event.lane_id == lane_id), None)
    if found is None:
        return None
    return checkpoint_of(
        found, {item.offset: item.event.payload for item in store.read_at(run_id, value_offsets(found))}
    )


def value_offsets(saved: Recorded[Any]) -> list[int]:
    """The offsets of the events that have the values of a checkpoint's channels, given the event that saved it."""
    channels = saved.event.payload["channels"]
    return sorted({offset for entry in channels.values() for offset in located(entry, saved.offset)})


def checkpoint_of(saved: Recorded[Any], payloads: Mapping[int, Any]) -> Snapshot[Any]:
    """A checkpoint as the snapshot of its lane was, made of the event that saved it.

    Args:
        saved: That event.
        payloads: Those of the events that have its values, by offset.
    """
    own, offset = saved.event.payload, saved.offset
    data = {name: own[name] for name in ("checkpoint", "metadata", "channels")}
    for name, entry in own["channels"].items():
        channel = read_channel(entry, offset, partial(_part_at, payloads, name))
        count = 0
        for part in channel.parts:
            data[f"{count}:{name}"] = part.stored
            count += part.count
    return Snapshot({"run_id": saved.event.run_id, "data": data}, offset, 0)


def _part_at(payloads: Mapping[int, Any], channel: str, offset: int, _count: int) -> Any:
    return payloads[offset]["values"][channel]


def readable_state(state: Mapping[str, Any], questions: list[Any]) -> dict[str, Any]:
    """A state that is a checkpoint: its step, the values of its channels, and what is asked of people."""
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
        found[name] = [each for part in values for each in part] if is_list else values[0]
    return found | ({"asks": questions} if questions else {})


def pending_questions(checkpoint_id: object, events: Iterable[Any]) -> list[Any]:
    """What tasks asked after a checkpoint and are not done with, of the events that came after it."""
    asked: dict[str, list[Any]] = {}
    done: set[str] = set()
    for event in events:
        payload = event.payload
        if event.kind != WRITES or not isinstance(payload, Mapping) or payload.get("checkpoint") != checkpoint_id:
            continue
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
    """A value as data, or the name of what does not read."""
    kind, data = ("msgpack", value) if isinstance(value, bytes) else (value[0], value[1])
    try:
        if kind == "msgpack":
            return _unpacked(data)
        if kind == "json":
            return json.loads(data)
    except (ValueError, msgpack.UnpackException):
        return f"({kind} that does not read, {len(data)} bytes)"
    plain = {"null": None, "bytes": data, "bytearray": data}
    return plain[kind] if kind in plain else f"({kind}, {len(data)} bytes)"


def _unpacked(data: bytes) -> Any:
    return msgpack.unpackb(data, ext_hook=_of_extension, strict_map_key=False)


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
