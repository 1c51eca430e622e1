"""The results of stores: plain, immutable values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from runstream.model.errors import ConfigurationError
from runstream.model.events import PAEvent
from runstream.model.identifiers import shown
from runstream.model.questions import Question
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
    "ArchivingHealth",
    "Cursor",
    "DeltaBuffer",
    "DrainReport",
    "E",
    "Failure",
    "Fork",
    "LaneInfo",
    "LeaseGrant",
    "Placement",
    "Recorded",
    "Recovery",
    "RunInfo",
    "S",
    "Snapshot",
    "SnapshotInfo",
]

_MAX_HELD = 2**30
_CURSOR = re.compile(r"(\d{1,19})-(\d{1,13})")


class Cursor(NamedTuple):
    """A position in one particular history: offset and chain. Its text is the id of the entry in Redis.

    Attributes:
        offset: The position in the run: 1 for its first event, and 0 before that.
        chain: The fingerprint of the history up to there; two histories that differ anywhere before it have
            different ones.
    """

    offset: int
    chain: int

    def __str__(self) -> str:
        return f"{self.offset}-{self.chain}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor.

        Args:
            text: The text of a cursor, ``OFFSET-CHAIN``.

        Returns:
            The cursor.

        Raises:
            ConfigurationError: The text is not one of a cursor.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"{text!r:.80} is not a cursor; pass the cursor of an event that was read, or an offset as int"
            )
        return cls(int(match[1]), int(match[2]))


class Recorded(NamedTuple, Generic[E]):
    """An event as a store recorded it.

    Attributes:
        offset: Its position in the run: 1, 2, 3, … without a hole.
        cursor: Its position in this particular history, as text: reading on after it is refused in any other.
        event: The event; or, with ``read(on_corrupt="raw")``, the :data:`~runstream.model.protocols.RawEvent` that
            stands for one which cannot be given.
    """

    offset: int
    cursor: str
    event: E


class Appended(NamedTuple):
    """The offsets of what an append wrote. Events whose keys were known have those of their first append.

    Attributes:
        first_offset: The offset of the first event; ``last_offset + 1`` if there was none, only a snapshot.
        last_offset: The offset of the last event.
        cursor: The cursor of the last event, as text.
    """

    first_offset: int
    last_offset: int
    cursor: str


class Placement(NamedTuple):
    """The cursors of what an append wrote, event by event.

    Attributes:
        appended: The offsets of the first and the last event.
        cursors: The cursor of each event, in the order of the events.
        known: The indexes of the events whose key the run knew, so that nothing was written for them.
    """

    appended: Appended
    cursors: Sequence[Cursor]
    known: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """A lease as a store gave it.

    Attributes:
        run_id: The run.
        lane_id: The lane; None: the whole run.
        owner: Who holds it.
        epoch: Its number, which only rises from grant to grant.
        token: Names this very grant: a number can be given out twice after a failover.
        ttl_seconds: It runs out so long after it was taken or last renewed.
    """

    run_id: str
    lane_id: str | None
    owner: str
    epoch: int
    token: str
    ttl_seconds: float


@dataclass(frozen=True, slots=True)
class DeltaBuffer:
    """How much text a :class:`~runstream.run.Run` holds back before it appends it: until the first bound is met.

    Attributes:
        max_events: The bound on how many deltas it holds.
        max_bytes: The bound on their text, in bytes of UTF-8.
        max_milliseconds: The bound on the age of the first of them, in milliseconds.

    Raises:
        ConfigurationError: A bound is no whole number, or out of its range.
    """

    max_events: int = 64
    max_bytes: int = 16_384
    max_milliseconds: int = 200

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_HELD:
                raise ConfigurationError(f"{name}={shown(value)}: pass a whole number, 0 to {_MAX_HELD}")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[S]):
    """The state of a run, or of one lane of it, as it was saved.

    Attributes:
        state: The state.
        offset: It covers the history up to this offset.
        revision: How many times a snapshot of this run or lane was saved, this one included.
        stored: The fields that the state was made from, with those that its class does not know. The state may
            share their values.
    """

    state: S
    offset: int
    revision: int
    stored: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


class SnapshotInfo(NamedTuple):
    """A snapshot that is kept, without its state.

    Attributes:
        offset: It covers the history up to this offset.
        revision: How many times a snapshot of this run or lane was saved, this one included.
    """

    offset: int
    revision: int


@dataclass(frozen=True, slots=True)
class Recovery(Generic[S, E]):
    """What resumes a run, or one lane of it.

    Attributes:
        state: The state of the latest snapshot; None without one.
        offset: It covers the history up to this offset; without a snapshot, the offset before the first event.
        events: The events after that offset, in order, of the run or of the lane.
        stored: The fields that the state was made from, with those that its class does not know; none without a
            snapshot. The state may share their values.
    """

    state: S | None
    offset: int
    events: list[Recorded[E]]
    stored: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run without reading it.

    Attributes:
        run_id: The run.
        session_id: The session that it belongs to.
        status: ``pending``, ``running``, ``paused``, ``completed``, ``failed`` or ``cancelled``.
        last_offset: The offset of its last event.
        archived_offset: The history up to this offset is proven to be archived.
        first_hot: The first offset that this store still holds; ``last_offset + 1`` if it holds none.
        created_at: When it was created: Unix time in seconds, by the store's clock.
        updated_at: When it was last written to: Unix time in seconds, by the store's clock.
        parent: The run and the offset that it was forked from; None for a run that is no fork.
        waiting_for: The questions that it waits with for a person's answer, of all its lanes.
        tags: Its tags: the value of each name.
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
    waiting_for: tuple[Question, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def page(self) -> str:
        """Where the next page of ``runs`` goes on, if this was the last run of the page before."""
        return f"{self.created_at!r}:{self.run_id}"


@dataclass(frozen=True, slots=True)
class LaneInfo:
    """What is known of one lane of a run.

    Attributes:
        lane_id: The lane.
        last_offset: The offset of its last event; 0 for a lane that has a snapshot and no event.
        last_seq: That event's ``seq``.
        snapshot_offset: The offset that its own snapshot covers; None without one.
        ended: Whether it was ended (``end_lanes``) and nothing has come to it since.
        lease: Who holds the lease on it; None for nobody.
    """

    lane_id: str
    last_offset: int
    last_seq: int
    snapshot_offset: int | None
    ended: bool
    lease: str | None = None


class Fork(NamedTuple):
    """A run that was forked from another one, or from which another one was, and the offset at which.

    Attributes:
        run_id: The run.
        at: The offset of the last event that both have.
    """

    run_id: str
    at: int


@dataclass(frozen=True, slots=True)
class ArchivingHealth:
    """How the archiving of what a store has in Redis stands; all 0 for a store that has nothing there.

    Attributes:
        workers: How many drain workers have said within the last minute that they live.
        due: How many runs wait for one.
        backlog_events: How many events of runs that wait, are worked on or are parked are not archived.
        oldest_due_seconds: How long the first of those that wait has waited.
        alarms: What an operator has to act on: the alarms of ``runstream status`` by name, each once.
    """

    workers: int = 0
    due: int = 0
    backlog_events: int = 0
    oldest_due_seconds: float = 0.0
    alarms: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """What is wrong with an archive, or with Redis.

    Attributes:
        since: Since when: Unix time in seconds.
        error: What it is, in words.
    """

    since: float
    error: str


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How much a drain did. Reports add up with ``+``; the text of one names the counts that are not 0.

    Attributes:
        runs: How many runs were settled.
        events: How many events were archived.
        snapshots: How many snapshots were archived.
        quarantined: How many records that do not read were quarantined.
        parked: How many runs were set aside, since an archive cannot take them.
        trimmed: How many entries were trimmed from Redis, those of retired runs included.
        retired: How many runs were taken out of Redis.
        forgotten: How many tombstones of retired runs were dropped.
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
        """Give the counts by name."""
        return {name: getattr(self, name) for name in self.__slots__}
