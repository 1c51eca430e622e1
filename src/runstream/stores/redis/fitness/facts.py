"""What is known of one server: what it tells, and what it was seen to do. Plain data, to be judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

__all__ = ["DENIED", "UNKNOWN", "WAITING", "Clock", "Latency", "Missing", "ServerFacts"]

DENIED = "denied to this user"
UNKNOWN = "unknown to this server"
WAITING = "wait for durability"
"""The kind of work that agents do whose stores ask for more than the primary."""


class Clock(NamedTuple):
    """The server's clock beside the one here: how many seconds it is ahead, and how far that may be off."""

    ahead_seconds: float
    within_seconds: float


class Latency(NamedTuple):
    """How long appends took that were made one after the other: their number, and seconds."""

    samples: int
    p50_seconds: float
    p99_seconds: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """That of appends that took so many seconds each: there is one at least."""
        ordered = sorted(seconds)
        p50, p99 = (ordered[math.ceil(part * len(ordered)) - 1] for part in (0.5, 0.99))
        return cls(len(ordered), p50, p99)


class Missing(NamedTuple):
    """Commands that cannot be called: denied to the user, or unknown to the server."""

    denied: Sequence[str] = ()
    unknown: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is known of a server.

    Attributes:
        place: Where it is, without user and password.
        user: As whom it was asked.
        database: The number of the database; None if it does not say.
        is_fake: Whether it is fakeredis.
        is_of_cluster: Whether it is reached as one of several servers, by what they say of each other.
        info: What INFO tells, by name; nothing where that is hidden.
        config: What CONFIG GET tells, by name, as far as it tells.
        hidden: Whether a command that tells nothing is denied to the user or unknown to the server, by its name.
        clock: The server's clock.
        rights: What cannot be called of what each kind of work needs, by the kind; it has those that lack
            something.
        rights_unknown: Why that is not known; "": it is.
        no_scripts: Whether they are denied to the user or unknown to the server; "": they can be run.
        durability: The level that the URL asks for.
        levels: The levels of durability that were tried: why the server does not give one; "": it does.
        latency: How long an append takes; None where none was made.
        not_appended: Why none was made.
        lacks_keys: What the keys match that the user may not use for it; "": that was not the reason.
    """

    place: str
    user: str = "default"
    database: int | None = None
    is_fake: bool = False
    is_of_cluster: bool = False
    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)
    clock: Clock | None = None
    rights: Mapping[str, Missing] = field(default_factory=dict)
    rights_unknown: str = ""
    no_scripts: str = ""
    durability: str = "primary"
    levels: Mapping[str, str] = field(default_factory=dict)
    latency: Latency | None = None
    not_appended: str = ""
    lacks_keys: str = ""

    def number(self, name: str) -> int | None:
        """A whole number that INFO tells, or CONFIG GET; None where neither does."""
        text = self.info.get(name, self.config.get(name, ""))
        return int(text) if text.isdigit() else None

    @property
    def replicas(self) -> Sequence[Mapping[str, str]]:
        """What INFO tells of each replica that is connected."""
        lines = (self.info.get(f"slave{number}", "") for number in range(self.number("connected_slaves") or 0))
        return [dict(part.split("=", 1) for part in line.split(",") if "=" in part) for line in lines]

    @property
    def is_watched(self) -> bool:
        """Whether sentinels say which server is the primary."""
        return "+sentinel:" in self.place

    @property
    def is_replica(self) -> bool:
        """Whether it takes no writes, being a replica."""
        return self.info.get("role") == "slave"
