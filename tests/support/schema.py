"""A program's schema over the years: three versions of its events and states, and the rules between them.

Version 1 has events of kind ``tool.called`` with ``args``; version 2 calls them ``tool.started``; from version 3
on ``args`` is ``arguments``, and every event has a further field ``origin``. Version 2 of the state has its steps
as ``current_step``, in version 1 they were ``data.steps``.
"""

from __future__ import annotations

from typing import Any

from runstream import PAEvent, Upcasts
from tests.support.samples import make_event, make_state

FIRST = Upcasts(version=1)
UPCASTS = Upcasts(version=3)


@UPCASTS.event("tool.called", since=1)
def renamed(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "kind": "tool.started"}


@UPCASTS.event("tool.called", since=2)
def never(fields: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError(f"the kind is another one by then: {fields}")


@UPCASTS.event("tool.started", since=2)
def arguments(fields: dict[str, Any]) -> dict[str, Any]:
    payload = fields["payload"]
    payload["arguments"] = payload.pop("args")
    return fields


@UPCASTS.event(since=2)
def with_origin(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "origin": fields["kind"]}


@UPCASTS.state(since=1)
def with_steps(fields: dict[str, Any]) -> dict[str, Any]:
    fields["current_step"] = fields["data"].pop("steps")
    return fields


def old_event(seq: int, run_id: str = "r", **fields: Any) -> PAEvent:
    """An event as version 1 wrote it."""
    return make_event(run_id, seq, kind="tool.called", payload={"args": [seq]}, **fields)


def new_event(seq: int, run_id: str = "r", **fields: Any) -> PAEvent:
    """An event as version 3 writes it."""
    return make_event(run_id, seq, kind="tool.started", payload={"arguments": [seq]}, **fields)


def old_state(steps: int, run_id: str = "r") -> Any:
    """A state as version 1 wrote it."""
    return make_state(run_id, data={"steps": steps, "kept": True})


def new_state(steps: int, run_id: str = "r") -> Any:
    """The same state as version 3 writes it."""
    return make_state(run_id, data={"kept": True}, current_step=steps)
