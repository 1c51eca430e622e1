"""Load JSON that another program wrote: the rows and lines of purpose-agent's own checkpointers.

It has no tags: ``{"$set": [1]}`` is that dict here, and a set in our own JSON
(:mod:`~runstream.codec.lossless_json`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.own_stack import with_room
from runstream.codec.stored import encode_stored_event
from runstream.model.identifiers import check_run_id

__all__ = ["encode_foreign_event", "load_foreign_json"]


def load_foreign_json(text: str | bytes) -> dict[str, Any]:
    """Load a JSON object.

    Args:
        text: Its text.

    Raises:
        ValueError: It does not read, or is no object.
    """
    found = with_room(json.loads, text)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - as for any other text that does not read
    return found


def encode_foreign_event(run_id: str, fields: Mapping[str, Any]) -> EncodedEvent:
    """Encode an event that another program wrote.

    Args:
        run_id: The run that it was found in.
        fields: Its fields by name.

    Returns:
        The event as bytes.

    Raises:
        RunstreamError: It is no event of this run.
    """
    check_run_id(run_id)  # another program may have given it any name
    return encode_stored_event(run_id, fields)
