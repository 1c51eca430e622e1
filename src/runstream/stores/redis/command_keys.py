"""Which keys a command of ours touches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runstream.operations.operation import Command

__all__ = ["keys_of"]

_WITHOUT = frozenset(
    {b"ASKING", b"BGREWRITEAOF", b"BGSAVE", b"CLUSTER", b"CONFIG", b"INFO", b"SCAN", b"SCRIPT", b"TIME", b"WAIT"}
    | {b"WAITAOF"}
)
_ALL = frozenset({b"DEL", b"EXISTS"})


def keys_of(command: Command) -> Sequence[Any]:
    """The keys of a command: a script's are numbered, XREAD's stand before its ids, most others have one."""
    name = command[0]
    if name == b"EVALSHA":
        return command[3 : 3 + command[2]]
    if name in _WITHOUT:
        return ()
    if name == b"XREAD":
        named = command[command.index(b"STREAMS") + 1 :]
        return named[: len(named) // 2]
    return command[1:] if name in _ALL else command[1:2]
