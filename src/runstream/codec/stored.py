"""Pack again what was stored once: it gives the same bytes, and no limit holds for it.

The bytes of a value are canonical, and its JSON text need not be: two texts are compared by the bytes of what they
stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.event_codec import Codec
from runstream.codec.lossless_json import load_json
from runstream.codec.msgpack_values import Packer
from runstream.codec.stored_fields import EventFields

__all__ = ["STORED_PACKER", "encode_stored_event", "same_json", "stored_record"]

STORED_PACKER = Packer(fallback=None, limits=False)
"""Packs values that were read from a store: equal values give equal bytes."""

# its options must not depend on a store's: chains are made of the record
_CODEC: Codec[Any, Any] = Codec(fallback=None, limits=False)


def encode_stored_event(run_id: str, fields: Mapping[str, Any], key: str | None = None) -> EncodedEvent:
    """Encode an event that was stored once, from its fields.

    Args:
        run_id: The run; its id was checked.
        fields: Its fields by name.
        key: The caller's key of the event, if it has one.

    Returns:
        The event as bytes, with the very record that it had.

    Raises:
        InvalidRunId: It belongs to another run.
        EncodingError: It is no event.
    """
    return _CODEC.encode_event(run_id, EventFields(dict(fields)), key)


def stored_record(run_id: str, fields: Mapping[str, Any], key: str | None = None) -> bytes:
    """The wire record of an event that was stored once, from its fields; see ``encode_stored_event``."""
    return encode_stored_event(run_id, fields, key).record


def same_json(text: str, other: str) -> bool:
    """Whether two JSON texts of an archive stand for the same value.

    Args:
        text: One text.
        other: The other text.

    Raises:
        ValueError: One of them does not read.
    """
    return text == other or STORED_PACKER.pack(load_json(text)) == STORED_PACKER.pack(load_json(other))
