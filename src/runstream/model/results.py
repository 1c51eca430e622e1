"""What stores give back: plain, immutable values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from runstream.model.errors import ConfigurationError
from runstream.model.events import PAEvent
from runstream.model.state import RunState

if TYPE_CHECKING:
    # PEP 696 defaults: type checkers know them on every Python, the interpreter only from 3.13 on
    from typing_extensions import TypeVar

    E = TypeVar("E", default=PAEvent)
    S = TypeVar("S", default=RunState)
else:
    from typing import TypeVar

    E = TypeVar("E")
    S = TypeVar("S")

__all__ = [
    "Appended",
    "Cursor",
    "DeltaBuffer",
    "DrainReport",
    "E",
    "Failure",
    "LeaseGrant",
    "Placement",
    "Recorded",
    "Recovery",
    "RunInfo",
    "S",
    "Snapshot",
]

_MAX_HELD = 2**30
_CURSOR = re.compile(r"(\d{1,19})-(\d{1,13})")


class Cursor(NamedTuple):
    """A place in one particular history: offset and chain. Its text is the entry's id in Redis."""

    offset: int
    chain: int

    def __str__(self) -> str:
        return f"{self.offset}-{self.chain}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor that this text names. Raises ConfigurationError for any other text."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"{text!r:.80} is not a cursor; pass the cursor of an event that was read, or an offset as int"
            )
        return cls(int(match[1]), int(match[2]))


class Recorded(NamedTuple, Generic[E]):
    """An event with its place: ``offset`` in the run, ``cursor`` in this particular history."""

    offset: int
    cursor: str
    event: E


class Appended(NamedTuple):
    """Where an append landed: the offsets of its first and last event, the cursor of the last.

    For an append of nothing but a snapshot, ``first_offset`` is ``last_offset + 1``. Of events whose keys
    were known, these are the offsets at which they lie since their first append.
    """

    first_offset: int
    last_offset: int
    cursor: str


class Placement(NamedTuple):
    """Where an append landed, event by event: the cursors in the order of the events.

    ``known`` has the indexes of the events whose key the run knew, so that nothing was written for them.
    """

    appended: Appended
    cursors: Sequence[Cursor]
    known: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """A lease as a store gave it: on one lane of a run, or, with ``lane_id`` None, on the whole run.

    ``epoch`` only rises; ``token`` names this very grant, as numbers can be given out twice after a
    failover. It runs out ``ttl_seconds`` after it was taken or renewed last.
    """

    run_id: str
    lane_id: str | None
    owner: str
    epoch: int
    token: str
    ttl_seconds: float


@dataclass(frozen=True, slots=True)
class DeltaBuffer:
    """How much text a :class:`~runstream.run.Run` holds back before it appends it.

    A buffer is appended when it has ``max_events`` deltas or ``max_bytes`` bytes of text, or when its
    first delta is ``max_milliseconds`` old, whichever comes first.
    """

    max_events: int = 64
    max_bytes: int = 16_384
    max_milliseconds: int = 200

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_HELD:
                raise ConfigurationError(f"{name}={value!r:.80}: pass a whole number, 0 to {_MAX_HELD}")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[S]):
    """The latest state of a run or lane. It covers the history up to ``offset``; ``revision`` counts saves."""

    state: S
    offset: int
    revision: int


@dataclass(frozen=True, slots=True)
class Recovery(Generic[S, E]):
    """What resumes a run or lane.

    ``state`` is the latest snapshot's, or None; ``offset`` is what it covers, or the run's base;
    ``events`` are those after it, in order, of the run or of the lane.
    """

    state: S | None
    offset: int
    events: list[Recorded[E]]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run without reading it. Times are Unix time in seconds, of the store's clock.

    ``archived_offset`` is how far the history is proven to be archived, ``first_hot`` the first offset
    that this store still holds (``last_offset + 1`` where it holds none); ``parent`` is the run and
    offset that this run was forked from, or None.
    """

    run_id: str
    session_id: str
    status: str
    last_offset: int
    archived_offset: int
    first_hot: int
    created_at: float
    updated_at: float
    parent: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What is wrong with an archive, or with Redis, and ``since`` when: Unix time in seconds."""

    since: float
    error: str


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain did: counts of runs settled, events and snapshots archived, records quarantined,
    runs parked, entries trimmed from Redis (those of retired runs included), runs retired, runs forgotten.
    """

    runs: int = 0
    events: int = 0
    snapshots: int = 0
    quarantined: int = 0
    parked: int = 0
    trimmed: int = 0
    retired: int = 0
    forgotten: int = 0

    def __add__(self, other: DrainReport) -> DrainReport:
        return DrainReport(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def __str__(self) -> str:
        counts = (
            f"{count} {name.removesuffix('s') if count == 1 else name}"
            for name, count in self.to_dict().items()
            if count
        )
        return ", ".join(counts) or "nothing"

    def to_dict(self) -> dict[str, Any]:
        """The counts by name."""
        return {name: getattr(self, name) for name in self.__slots__}
