"""What an operation and its driver say to each other.

An operation is a generator. It yields an :class:`Exchange`, commands for one round trip, and receives
the list of their replies; or it yields :class:`Items` to hand on to whoever iterates over it. What it
returns is its result. It does no I/O, so that sync and async differ only in the driver, and every
``yield`` is a point at which a test can break it off.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

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
    "ScriptCall",
    "Stream",
]

T = TypeVar("T")

Command: TypeAlias = tuple[Any, ...]
"""A command's name, as bytes so that redis-py leaves its reply alone, and its arguments."""


class Script(NamedTuple):
    """A Lua script with the digest under which the server knows it."""

    name: str
    source: str
    sha: str


class ScriptCall(NamedTuple):
    """One call of a script."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Any]


class Exchange(NamedTuple):
    """Commands for one round trip.

    ``atomic``: nothing of anybody else's comes between them. ``tolerant``: a command that the server
    refuses gives a :class:`Refusal` in place of a reply instead of an error.
    """

    commands: Sequence[Command | ScriptCall]
    atomic: bool = False
    tolerant: bool = False


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
