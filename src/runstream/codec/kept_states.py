"""What the stores on one machine keep of a state: a copy in memory, JSON text in an archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runstream.codec.lossless_json import dump_json, dump_plain_json
from runstream.codec.msgpack_values import NESTED_FLOOR, Packer, unpack
from runstream.codec.plain_values import STATE_VALUES_LEVEL, is_json
from runstream.codec.snapshot_fields import pack_state, unpack_state
from runstream.model.errors import EncodingError

__all__ = ["plain_state", "state_text"]


def plain_state(packer: Packer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a state into what every store gives back of it, and refuse what any of them would refuse.

    Args:
        packer: Packs its values.
        state: The state as a dict.

    Returns:
        The copy, which shares nothing with the state that can change.

    Raises:
        EncodingError: A value cannot be stored.
    """
    plain = {}
    for key, value in state.items():
        packed, nested, _ = packer.measured(value, key, STATE_VALUES_LEVEL)
        if nested > NESTED_FLOOR:  # rarely: the limit is that of each field of a hash
            plain.update(unpack_state(pack_state(packer, {key: value}).fields)[0])
        else:
            plain[key] = unpack(packed)
    return plain


def state_text(packer: Packer, state: Mapping[str, Any]) -> str:
    """Dump a state as JSON: what every store gives back of it. Refuse what any of them would refuse.

    Args:
        packer: Packs its values.
        state: The state as a dict.

    Returns:
        The text.

    Raises:
        EncodingError: A value cannot be stored.
    """
    # nearly always: there is nothing to convert, and nothing to tag
    texts = dump_plain_json([state])  # first: what contains itself ends here, at the encoder's depth
    if texts is not None and is_json(state, STATE_VALUES_LEVEL - 1):
        return texts[0]
    try:
        return dump_json(plain_state(packer, state))
    except ValueError as error:
        raise EncodingError("state: nested too deeply for JSON; store flatter data") from error
