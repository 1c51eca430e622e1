"""Pack commands by hiredis, as they are sent."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import groupby
from typing import Any

import hiredis
from redis.connection import HiredisRespSerializer

__all__ = ["packed", "packing_in_c"]


@cache
def packing_in_c(kind: Any) -> Any:
    """A connection of redis-py that packs commands by hiredis, each in one step.

    redis-py goes through the arguments before that, and for asyncio it packs them in Python.
    """
    return type(kind.__name__, (kind,), {"pack_command": _pack_command, "pack_commands": _pack_commands})


def _pack_command(_: Any, *command: Any) -> list[bytes]:
    return [packed(command)]


def _pack_commands(_: Any, commands: Iterable[tuple[Any, ...]]) -> list[bytes]:
    """The commands, those that follow each other in one piece; a large one by itself, as joining copies it."""
    all_packed = list(map(packed, commands))
    if not any(map(_is_large, all_packed)):
        return [b"".join(all_packed)]
    pieces: list[bytes] = []
    for are_large, part in groupby(all_packed, _is_large):
        together = list(part)
        pieces += together if are_large else [b"".join(together)]
    return pieces


def packed(command: tuple[Any, ...]) -> bytes:
    """A command as it is sent.

    Raises:
        DataError: An argument of it is of a type that is not sent.
        UnicodeError: One is a text that has no bytes.
    """
    if type(command[0]) is bytes and b" " not in command[0]:
        try:
            as_sent: bytes = hiredis.pack_command(command)
        except TypeError:  # redis-py takes more than hiredis, or says what neither takes
            pass
        else:
            return as_sent
    return b"".join(_SERIALIZER.pack(*command))


def _is_large(one: bytes) -> bool:
    return len(one) > _LARGE_BYTES


_SERIALIZER = HiredisRespSerializer()
_LARGE_BYTES = 2**16
