"""Make events and states of the user's own classes, and say which class refuses what is stored."""

from __future__ import annotations

from typing import Any, Literal

from runstream.model.errors import EventRefused
from runstream.model.identifiers import told

__all__ = ["refused"]


def refused(
    what: str,
    option: Literal["event_type", "state_type"],
    refusing: type[Any],
    error: Exception,
    at: tuple[str, int],
    fields: dict[str, Any],
) -> EventRefused:
    """The error for what is stored soundly, and a class does not take.

    Args:
        what: The event or the snapshot, in words.
        option: The argument of a store that names the class.
        refusing: The class.
        error: What it raised.
        at: The run, and the event's offset or the offset that the snapshot covers.
        fields: The fields that the class was given.
    """
    name = refusing.__qualname__
    how = 'read it with on_corrupt="raw"' if option == "event_type" else "with state_type=dict"
    return EventRefused(
        f"{what} reads, and {name} refuses it: {told(error)}; open the store with another {option}, or {how}",
        run_id=at[0],
        offset=at[1],
        event_type=name,
        fields=fields,
    )
