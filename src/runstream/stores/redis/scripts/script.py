"""A Lua script and the command that calls it."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Self

from runstream.operations.operation import Command

__all__ = ["Script", "script_call", "script_of"]


class Script(str):
    """The SHA1 digest by which the server knows a Lua script, with the script's name and source beside it.

    ``needs`` are the commands that whoever calls it must be allowed to call.
    """

    __slots__ = ("name", "needs", "source")

    name: str
    source: str
    needs: frozenset[str]

    def __new__(cls, name: str, source: str, needs: frozenset[str]) -> Self:
        """Compute the digest of a script's source."""
        # the digest is the server's own name for a script, not a safeguard
        script = super().__new__(cls, sha1(source.encode(), usedforsecurity=False).hexdigest())
        script.name, script.source, script.needs = name, source, needs
        return script


def script_call(script: Script, keys: Sequence[str | bytes], args: Sequence[Any]) -> Command:
    """The command that calls a script."""
    return (b"EVALSHA", script, len(keys), *keys, *args)


def script_of(command: Command) -> Script | None:
    """The script that a command calls, or None if it calls none."""
    return command[1] if command[0] == b"EVALSHA" else None
