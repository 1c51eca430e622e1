"""The JSON of events and states. How it is written is the codec's to know, which imports this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["JsonCodec", "dump_fields", "load_fields", "use_codec"]


class JsonCodec(NamedTuple):
    """What writes fields as JSON text, and reads them."""

    dump: Callable[[Mapping[str, Any]], str]
    load: Callable[[str | bytes], dict[str, Any]]


_in_use: list[JsonCodec] = []


def use_codec(codec: JsonCodec) -> None:
    """Write and read by this codec from now on.

    Args:
        codec: The codec.
    """
    _in_use[:] = [codec]


def dump_fields(fields: Mapping[str, Any]) -> str:
    """Write the fields of an event or a state as JSON text.

    Args:
        fields: What ``to_dict`` gives.

    Returns:
        One JSON object, on one line.

    Raises:
        EncodingError: A value of them is none that a store takes.
    """
    return _in_use[0].dump(fields)


def load_fields(text: str | bytes) -> dict[str, Any]:
    """Read the fields of an event or a state.

    Args:
        text: What ``dump_fields`` gave.

    Returns:
        The fields, equal.

    Raises:
        ValueError: It is no such text.
    """
    return _in_use[0].load(text)
