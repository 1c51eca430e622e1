"""What an operation and its driver say to each other.

An operation is a generator. It yields an :class:`Exchange`, commands for one round trip, and receives
the list of their replies; or it yields :class:`Items` to hand on to whoever iterates over it. What it
returns is its result. It does no I/O, so that sync and async differ only in the driver, and every
``yield`` is a point at which a test can break it off.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from hashlib import sha1
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

from runstream.model.errors import RunstreamError

__all__ = [
    "Command",
    "Exchange",
    "Items",
    "Operation",
    "Paging",
    "Refusal",
    "Replies",
    "Script",
    "Stream",
    "script_call",
    "script_of",
]

T = TypeVar("T")

Command: TypeAlias = tuple[Any, ...]
"""A command's name, as bytes so that redis-py leaves its reply alone, and its arguments."""


class Script(str):
    """A Lua script: the digest under which the server knows it, and what it is the digest of."""

    __slots__ = ("name", "source")

    name: str
    source: str

    def __new__(cls, name: str, source: str) -> Self:
        """Name a script by its source."""
        # the digest is the server's own name for a script, not a safeguard
        script = super().__new__(cls, sha1(source.encode(), usedforsecurity=False).hexdigest())
        script.name, script.source = name, source
        return script


def script_call(script: Script, keys: Sequence[str], args: Sequence[Any]) -> Command:
    """The command that calls a script."""
    return (b"EVALSHA", script, len(keys), *keys, *args)


def script_of(command: Command) -> Script | None:
    """The script that a command calls, if it calls one."""
    return command[1] if command[0] == b"EVALSHA" else None


class Exchange(NamedTuple):
    """Commands for one round trip.

    ``atomic``: nothing of anybody else's comes between them. ``tolerant``: a command that the server
    refuses gives a :class:`Refusal` in place of a reply instead of an error. ``frequent``: such calls follow
    closely upon each other, and a driver may hold a connection for them.
    """

    commands: Sequence[Command]
    atomic: bool = False
    tolerant: bool = False
    frequent: bool = False


class Refusal(NamedTuple):
    """A tolerated error of the server: a reply, which tells that the command was not applied."""

    error: RunstreamError


class Items(NamedTuple):
    """Results to hand on now."""

    items: Sequence[Any]


Replies: TypeAlias = list[Any]
Operation: TypeAlias = Generator[Exchange, Replies, T]
Paging: TypeAlias = Generator[Exchange | Items, Replies, T]
Stream: TypeAlias = Paging[None]
