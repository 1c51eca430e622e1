"""Append events again that another store has kept, beyond the limits that hold for writers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runstream.codec.event_codec import Codec
from runstream.codec.stored_fields import EventFields
from runstream.operations.arguments import AppendOptions
from runstream.operations.operation import Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.client.append import append
from runstream.stores.redis.session.session import Session

__all__ = ["append_again"]


def append_again(
    keys: Keys,
    run_id: str,
    events: Iterable[EventFields],
    event_keys: Sequence[str | None],
    expected_offset: int,
) -> Operation[int]:
    """Append events that were stored once, right after an offset.

    No limit of a store object holds for them, neither on an event's size nor on the number of hot events: a run
    that is being repaired is parked and not trimmed, so that with a limit this could never be done.

    Args:
        keys: The namespace's keys.
        run_id: The run.
        events: The events' fields.
        event_keys: The callers' key of each, or None.
        expected_offset: The offset after which they must land.

    Returns:
        The offset of the last of them.

    Raises:
        ConcurrencyConflict: The run does not end at ``expected_offset`` any more.
        LeaseHeld: Somebody has leased what they would be written to.
    """
    codec: Codec[Any, Any] = Codec(fallback=None, limits=False)
    session = Session(codec, keys.namespace, opened=keys)
    options: AppendOptions[Any] = AppendOptions(expected_offset, event_keys)
    applied = yield from append(session, run_id, events, options)
    return applied.appended.last_offset
