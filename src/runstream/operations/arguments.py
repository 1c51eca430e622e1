"""The arguments of calls, gathered in values, with the checks that every store makes of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import index
from typing import Any, Generic, Literal, NamedTuple, Self, TypeAlias, TypedDict, get_args

from runstream.codec.left_out import LeftOut
from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    EncodingError,
    EventRefused,
    InvalidRunId,
)
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import (
    MAIN_LANE,
    check_iterable,
    check_name,
    check_run_id,
    event_run_id,
    one_of_kind,
    shown,
)
from runstream.model.protocols import Leased, OnCorrupt, RawEvent
from runstream.model.results import Cursor, DeltaBuffer, E, LeaseGrant, S
from runstream.model.tags import TagChanges, check_tags

__all__ = [
    "AppendOptions",
    "FollowFilters",
    "FollowQuery",
    "LeaseRequest",
    "LeasedAppend",
    "ReadQuery",
    "RunRequest",
    "RunsQuery",
    "Sender",
    "StateChange",
    "check_count",
    "check_leased",
    "check_seconds",
    "check_since_seq",
    "grant_of",
    "group_by_run",
    "in_place_of",
    "parse_position",
]

_SHORTEST_TTL_SECONDS = 0.05
_MOST_TAGS_ASKED_FOR = 100
_LONGEST_SECONDS = 30 * 86_400.0  # a holder that dies keeps all others out for that long


Sender: TypeAlias = Literal["-", "run", "person"]
"""Who sends an append: a Run, which a request to cancel stops; a person who says something to a run, which a lease
on the whole run lets pass; anybody."""


class AppendOptions(NamedTuple, Generic[S]):
    """What an append asks for beside its events; see :meth:`runstream.stores.facade.Store.append`.

    ``left_out`` is what the class of the snapshot's state left out when that was loaded, and is put back.
    ``status`` is the one that the run takes, whatever its events and its snapshot say; "" leaves it to them.
    ``tags`` are changed as they say, and the others stay.
    ``durability`` is how durable it is when the call returns; None: as the store has it.
    """

    expected_offset: int | None = None
    keys: Sequence[str | None] | None = None
    lease: Leased | None = None
    snapshot: S | None = None
    lane_id: str | None = None
    left_out: LeftOut | None = None
    sender: Sender = "-"
    status: str = ""
    snapshots: Mapping[str | None, S] | None = None
    end_lanes: Sequence[str] = ()
    tags: TagChanges | None = None
    durability: str | None = None

    @property
    def ended(self) -> list[str]:
        """The lanes to end, each once. Raises EncodingError where these are no names of lanes."""
        if isinstance(self.end_lanes, str) or not isinstance(self.end_lanes, Collection):
            # an iterator would give them once, and they are asked for again
            what = one_of_kind(self.end_lanes)
            raise EncodingError(f"end_lanes: pass a list of lanes, not {what}", path="end_lanes")
        for lane_id in self.end_lanes:
            check_name("end_lanes", lane_id)
        return list(dict.fromkeys(self.end_lanes))

    @property
    def states(self) -> Mapping[str | None, S]:
        """The states to save, by lane; None: the run's own.

        Raises:
            ConfigurationError: ``snapshots`` is given beside ``snapshot`` or ``lane_id``, or is no mapping.
        """
        if self.snapshots is None:
            return {} if self.snapshot is None else {self.lane_id: self.snapshot}
        for name, value in (("snapshot", self.snapshot), ("lane_id", self.lane_id)):
            if value is not None:
                raise ConfigurationError(
                    f"{name}= and snapshots= are both given: put every state into snapshots=, under its lane, or"
                    " under None if it is the run's own"
                )
        if not isinstance(self.snapshots, Mapping):
            raise ConfigurationError(
                f"snapshots={shown(self.snapshots)}: pass a dict of states by lane; None is the run's own"
            )
        return self.snapshots

    def left_out_of(self, lane_id: str | None) -> LeftOut | None:
        """What the class of the state of this lane left out: it is known of the one ``snapshot`` alone."""
        return self.left_out if self.snapshots is None and lane_id == self.lane_id else None


class LeasedAppend(TypedDict, Generic[S], total=False):
    """What an append through a lease or a Run may ask for; the lease and the lane are its own."""

    expected_offset: int | None
    keys: Sequence[str | None] | None
    snapshot: S | None
    snapshots: Mapping[str | None, S] | None
    end_lanes: Sequence[str]
    tags: TagChanges | None
    durability: str | None


class ReadQuery(NamedTuple):
    """Which events to read; see :meth:`runstream.stores.facade.Store.read`.

    ``given_as`` is the run that they are given as events of: the fork of which they are a part; None: their own.
    With a ``lane_id`` those of other lanes may be left out, to save the time that it takes to make them.
    """

    after: int | str = 0
    before: int | None = None
    limit: int | None = None
    reverse: bool = False
    on_corrupt: OnCorrupt = "raise"
    given_as: str | None = None
    lane_id: str | None = None

    @classmethod
    def one(cls, offset: int) -> Self:
        """The event at this offset."""
        return cls(offset - 1, before=offset + 1)

    def check(self) -> None:
        """Raise ConfigurationError for a position, bound, limit or ``on_corrupt`` that ``read`` does not take."""
        parse_position(self.after)
        if self.before is not None and (isinstance(self.before, bool) or not isinstance(self.before, int)):
            raise ConfigurationError(f"before={shown(self.before)}: pass an offset, or None")
        check_count("limit", self.limit)
        if self.on_corrupt not in get_args(OnCorrupt):
            raise ConfigurationError(f"on_corrupt={shown(self.on_corrupt)}: use 'raise', 'skip' or 'raw'")


class FollowQuery(NamedTuple):
    """Which events to follow; see :meth:`runstream.stores.facade.Store.follow`."""

    after: int | str = 0
    idle_timeout: float | None = None
    lane_id: str | None = None
    kinds: Collection[EventKind | str] | None = None
    visibility: Visibility | str | None = None


class FollowFilters(TypedDict, total=False):
    """What a follower of a Run may ask for; see :class:`FollowQuery`."""

    idle_timeout: float | None
    lane_id: str | None
    kinds: Collection[EventKind | str] | None
    visibility: Visibility | str | None


class RunsQuery(NamedTuple):
    """Which runs to list; see :meth:`runstream.stores.facade.Store.runs`."""

    session_id: str | None = None
    status: str | None = None
    updated_after: float | None = None
    limit: int | None = None
    tags: Mapping[str, str] | None = None
    created_after: float | None = None
    updated_before: float | None = None
    page: str | None = None

    def check(self) -> None:
        """Raise ConfigurationError, naming the argument, for runs that cannot be asked for like that."""
        for name, text in (("session_id", self.session_id), ("status", self.status)):
            if text is not None and not isinstance(text, str):
                raise ConfigurationError(f"{name}={shown(text)}: pass a text, or None")
        for name in ("updated_after", "created_after", "updated_before"):
            time = getattr(self, name)
            if time is not None and (isinstance(time, bool) or not isinstance(time, int | float)):
                raise ConfigurationError(f"{name}={shown(time)}: pass Unix time in seconds, or None")
        check_count("limit", self.limit)
        if len(check_tags(self.tags, removing=False)) > _MOST_TAGS_ASKED_FOR:
            raise ConfigurationError(f"{len(self.tags or ())} tags: ask for {_MOST_TAGS_ASKED_FOR} at most")
        self.parse_page()

    def parse_page(self) -> tuple[float, str] | None:
        """When the last run of the page before was created, and its id; None for the first page, or no pages.

        Raises:
            ConfigurationError: That is no page's.
        """
        if self.page in (None, ""):
            return None
        created, _, run_id = self.page.partition(":") if isinstance(self.page, str) else ("", "", "")
        with suppress(ValueError):
            if run_id:
                return float(created), run_id
        raise ConfigurationError(
            f"page={shown(self.page)}: pass '' for the first page, then the .page of the last run that the page"
            " before gave"
        )


class StateChange(NamedTuple):
    """The options of a change of a state."""

    attempts: int = 10
    lease: Leased | None = None

    def check(self) -> None:
        """Raise ConfigurationError unless it is to be attempted at least once."""
        check_count("attempts", self.attempts)
        if self.attempts < 1:
            raise ConfigurationError(f"attempts={self.attempts}: attempt it at least once")


class LeaseRequest(NamedTuple):
    """Which lease to take; ``ttl`` and ``wait`` are seconds."""

    run_id: str
    owner: str
    lane_id: str | None = None
    ttl: float = 30.0
    wait: float = 0.0

    def check(self) -> None:
        """Raise ConfigurationError, naming the argument, for a lease that cannot be asked for like that."""
        check_run_id(self.run_id)
        if not isinstance(self.owner, str) or not self.owner:
            raise ConfigurationError(
                f"owner={shown(self.owner)}: name who holds the lease, the same after a restart"
            )
        check_name("owner", self.owner)
        if self.lane_id is not None:
            check_name("lane_id", self.lane_id)
        for name, seconds, least in (("ttl", self.ttl, _SHORTEST_TTL_SECONDS), ("wait", self.wait, 0.0)):
            is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
            if not is_number or not least <= seconds <= _LONGEST_SECONDS:
                raise ConfigurationError(
                    f"{name}={shown(seconds)}: pass seconds, {least:g} to {_LONGEST_SECONDS:g}"
                )


class RunRequest(NamedTuple):
    """Which Run to open; see :meth:`runstream.stores.facade.Store.open_run`."""

    run_id: str
    lane_id: str = MAIN_LANE
    session_id: str = ""
    lease_ttl: float | None = None
    owner: str | None = None
    wait: float = 0.0
    deltas: DeltaBuffer | None = None
    tags: TagChanges | None = None

    def check(self) -> None:
        """Raise InvalidRunId, EncodingError or ConfigurationError, naming the argument that does not fit."""
        check_run_id(self.run_id)
        check_name("lane_id", self.lane_id)
        check_name("session_id", self.session_id)
        if self.deltas is not None and not isinstance(self.deltas, DeltaBuffer):
            raise ConfigurationError(
                f"deltas={shown(self.deltas)}: pass a DeltaBuffer, or None to hold nothing back"
            )
        check_tags(self.tags)
        if self.lease_ttl is None and (self.owner is not None or self.wait):
            raise ConfigurationError("owner= and wait= are a lease's: pass lease_ttl= (seconds) with them")


def in_place_of(error: CorruptRecordError | EventRefused, on_corrupt: OnCorrupt) -> RawEvent | None:
    """What ``read`` gives in place of an event that it cannot give.

    Args:
        error: Why it cannot.
        on_corrupt: What it was asked to do then; ``"raise"`` raises the error.

    Returns:
        The event's fields, or the record's bytes where it does not read; None: the event is passed over.
    """
    if on_corrupt == "raise":
        raise error
    if on_corrupt == "skip":
        return None
    return error.fields if isinstance(error, EventRefused) else error.raw


def parse_position(after: int | str) -> tuple[int, Cursor | None]:
    """The offset after which to go on, and the cursor to check if ``after`` is one.

    Raises:
        ConfigurationError: It is neither an offset nor a cursor.
    """
    if isinstance(after, str):
        cursor = Cursor.parse(after)
        return cursor.offset, cursor
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise ConfigurationError(f"after={shown(after)}: pass an offset (0 or more), or a cursor as text")
    return after, None


def check_count(name: str, value: Any) -> None:
    """Raise ConfigurationError, naming the argument, unless it is None or a whole number from 0 on."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ConfigurationError(f"{name}={shown(value)}: pass a whole number, 0 or more, or None")


def check_seconds(name: str, value: Any) -> None:
    """Raise ConfigurationError, naming the argument, unless it is None or a number of seconds from 0 on."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
        raise ConfigurationError(f"{name}={shown(value)}: pass seconds, 0 or more, or None")


def check_since_seq(since_seq: Any) -> int:
    """The number as it is, if it is a whole one. Raises ConfigurationError for anything else."""
    try:
        return index(since_seq)
    except TypeError as error:
        raise ConfigurationError(f"since_seq={shown(since_seq)}: pass a whole number; 0 for all events") from error


def grant_of(run_id: str, lease: Leased | None) -> LeaseGrant | None:
    """The lease that a write to this run carries.

    Raises:
        ConfigurationError: It is none.
        InvalidRunId: It is one on another run.
    """
    try:
        grant = None if lease is None else lease.grant
    except AttributeError:
        raise ConfigurationError(
            f"lease={shown(lease)}: pass what the store's lease(...) gives, a Run, or None"
        ) from None
    if grant is not None and grant.run_id != run_id:
        raise InvalidRunId(
            f"a lease on run {shown(grant.run_id)} says nothing of run {shown(run_id)}: take one on that run"
        )
    return grant


def check_leased(run_id: str, lanes: Collection[str], grant: LeaseGrant | None) -> None:
    """Raise ConfigurationError for a write to a store that requires a lease, without one on all it touches."""
    if grant is None:
        raise ConfigurationError(
            f"this store requires a lease (require_lease) and run {run_id!r} was to be written without one: write"
            " through what lease() or open_run(lease_ttl=...) gives, or pass it as lease="
        )
    others = [lane for lane in lanes if grant.lane_id not in (None, lane)]
    if others:
        raise ConfigurationError(
            f"this store requires a lease (require_lease); the one on lane {grant.lane_id!r} of run {run_id!r}"
            f" does not cover lane {others[0]!r}: take that one too, or one on the whole run"
        )


def group_by_run(events: Iterable[E]) -> dict[str, list[E]]:
    """Sort events by the run that they name.

    Args:
        events: The events.

    Returns:
        The events of each run, in order, by its id.

    Raises:
        InvalidRunId: An event names no run.
        EncodingError: These are no events.
    """
    check_iterable("events", events, instead="save_event takes one")
    groups: dict[str, list[E]] = {}
    for event in events:
        groups.setdefault(event_run_id(event), []).append(event)
    return groups
