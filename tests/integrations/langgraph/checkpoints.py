"""Checkpoints as tests make them: a chat of one channel that is saved turn by turn."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.checkpoint.base.id import uuid6

__all__ = ["checkpoint", "config_of", "ids_of", "new_thread", "save"]


def new_thread() -> str:
    """A thread that no other test has."""
    return f"thread-{uuid.uuid4().hex[:12]}"


def config_of(thread_id: str, checkpoint_id: str | None = None, namespace: str = "") -> Any:
    """A config that names a thread, and a checkpoint if one is given."""
    named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, **named}}


def checkpoint(values: Mapping[str, Any], versions: Mapping[str, int], checkpoint_id: str | None = None) -> Any:
    """A checkpoint with values of channels, and their versions."""
    return {
        "v": 4,
        "id": checkpoint_id or str(uuid6(clock_seq=-1)),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": dict(values),
        "channel_versions": dict(versions),
        "versions_seen": {},
        "updated_channels": None,
    }


def save(
    saver: Any,
    thread_id: str,
    values: Mapping[str, Any],
    step: int,
    parent: str | None = None,
    namespace: str = "",
    **metadata: Any,
) -> str:
    """Save a checkpoint of these values, which all are new, and give its id."""
    versions = dict.fromkeys(values, step + 2)
    made = checkpoint(values, versions)
    metadata = {"source": "loop", "step": step, "parents": {}, **metadata}
    saver.put(config_of(thread_id, parent, namespace), made, metadata, versions)
    checkpoint_id: str = made["id"]
    return checkpoint_id


def ids_of(saver: Any, thread_id: str, **options: Any) -> Sequence[str]:
    """The ids of a thread's checkpoints, the latest first."""
    return [found.checkpoint["id"] for found in saver.list(config_of(thread_id), **options)]
