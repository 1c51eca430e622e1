"""What the stores on one machine keep of a state: a copy in memory, JSON text in an archive, or msgpack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runstream.codec.lossless_json import dump_json, dump_plain_json
from runstream.codec.msgpack_values import NESTED_FLOOR, Packer, unpack
from runstream.codec.plain_values import STATE_VALUES_LEVEL, is_json
from runstream.codec.snapshot_fields import pack_state, unpack_state
from runstream.model.errors import EncodingError

__all__ = ["packed_or_text", "plain_state", "state_text", "text_of_packed"]

_LEVEL = STATE_VALUES_LEVEL - 1
"""The depth of a state itself."""


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
    # nearly always: there is nothing to convert, and nothing to tag but bytes
    text = _plain_text(state, with_bytes=True)
    if text is not None:
        return text
    try:
        return dump_json(plain_state(packer, state))
    except ValueError as error:
        raise EncodingError("state: nested too deeply for JSON; store flatter data") from error


def packed_or_text(packer: Packer, state: Mapping[str, Any]) -> bytes | str:
    """Dump a state as JSON if that has a type for all that is in it, else as msgpack: bytes take no base64 there.

    Args:
        packer: Packs its values.
        state: The state as a dict.

    Returns:
        The text; or the bytes, from which ``unpack`` makes the state.

    Raises:
        EncodingError: A value cannot be stored.
    """
    text = _plain_text(state, with_bytes=False)
    if text is not None:
        return text
    packed = packer.pack_all([state], _LEVEL) if type(state) is dict else None
    # rarely there are tuples and sets in it, which state_text knows to limit
    return state_text(packer, state) if packed is None else packed[0]


def text_of_packed(packed: bytes) -> str:
    """The JSON text of a state that was dumped as msgpack.

    Args:
        packed: The bytes.

    Raises:
        ValueError: They are none of such a state.
    """
    return dump_json(unpack(packed))


def _plain_text(state: Mapping[str, Any], *, with_bytes: bool) -> str | None:
    """A state as JSON, if nothing in it needs a tag, but for bytes if so said."""
    # first: what contains itself ends here, at the encoder's depth
    texts = dump_plain_json([state], with_bytes=with_bytes)
    return texts[0] if texts is not None and is_json(state, _LEVEL, with_bytes=with_bytes) else None
