"""The arguments of the calls that erase, with the checks that every store makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple

from runstream.model.erasures import Spans
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import check_name, check_run_id, shown
from runstream.model.protocols import Leased
from runstream.model.results import Cursor, E, S
from runstream.model.run_head import RunHead, SnapshotHead
from runstream.operations.arguments import check_count, grant_of

__all__ = [
    "MAY_HOLD",
    "MAY_HOLD_SHARED",
    "Beside",
    "EraseOptions",
    "EraseRequest",
    "MayNeedEvents",
    "SnapshotsAway",
    "TruncateOptions",
    "begins_elsewhere",
    "check_before",
    "check_offsets",
    "check_own",
    "check_truncated",
    "held_by",
    "may_hold_erased",
]

MAY_HOLD, MAY_HOLD_SHARED = (
    f"may hold what is to be erased{of_which}" for of_which in ("", " of the run that it comes from")
)


class EraseOptions(NamedTuple):
    """How to erase; see :meth:`runstream.stores.facade.Store.erase`.

    Attributes:
        drop_snapshots: Whether the latest snapshots that may hold what is erased go with it.
        given: The lanes (None: the run) whose latest snapshots, as this writer saved them, hold nothing of it.
        lease: What it is valid under.
    """

    drop_snapshots: bool = False
    given: Collection[str | None] = ()
    lease: Leased | None = None


class TruncateOptions(NamedTuple):
    """How to truncate; see :meth:`runstream.stores.facade.Store.truncate`.

    Attributes:
        lease: What it is valid under.
        clean: The tokens of latest snapshots of which it is known that they need none of these events.
    """

    lease: Leased | None = None
    clean: frozenset[str] = frozenset()


class Beside(NamedTuple):
    """What is known of an archive by one who erases content of a run that has left Redis in part, or truncates it.

    Attributes:
        away: What Redis noted of the latest snapshots that had left it, before these were looked at: none of them
            holds, or needs, what goes. b"": they were not looked at.
        at: The cursor before a history's new beginning; None where it was not asked for.
    """

    away: bytes = b""
    at: Cursor | None = None


class MayNeedEvents(Exception):
    """Latest snapshots may need events that are to be truncated: nothing was.

    Args:
        holding: These snapshots.
    """

    def __init__(self, holding: Sequence[SnapshotHead]) -> None:
        super().__init__(holding)
        self.holding = holding


class SnapshotsAway(Exception):
    """Latest snapshots that have left Redis may hold what is to be erased, or need what is to be truncated.

    Args:
        noted: What Redis notes of those that have left it; it changes as others do.
    """

    def __init__(self, noted: bytes) -> None:
        super().__init__(noted)
        self.noted = noted


class EraseRequest(NamedTuple, Generic[E, S]):
    """What is to be erased, as it was asked for; see :meth:`runstream.stores.facade.Store.erase`."""

    offsets: Iterable[int] | None = None
    lane_id: str | None = None
    where: Callable[[E], bool] | None = None
    snapshots: Mapping[str | None, S] | None = None
    drop_snapshots: bool = False
    lease: Leased | None = None

    def check(self, run_id: str) -> None:
        """Raise ConfigurationError, naming the argument, unless it is clear what is meant."""
        check_run_id(run_id)
        grant_of(run_id, self.lease)
        named = [name for name in ("offsets", "lane_id", "where") if getattr(self, name) is not None]
        if len(named) != 1:
            what = " and ".join(f"{name}=" for name in named) or "nothing"
            raise ConfigurationError(
                f"{what} is given: say what is to be erased with one of offsets=, lane_id= and where="
            )
        if self.lane_id is not None:
            check_name("lane_id", self.lane_id)
        if self.where is not None and not callable(self.where):
            raise ConfigurationError(
                f"where={shown(self.where)}: pass a function that is true of the events to erase"
            )


def check_offsets(run_id: str, spans: Spans, first: int, last: int) -> None:
    """Raise ConfigurationError unless the run has all of these offsets itself.

    Args:
        run_id: The run.
        spans: The offsets that are to be erased.
        first: The offset of its first event that is there; of a fork, of the first of its own.
        last: The offset of its last event.
    """
    outside = [span for span in spans if not first <= span[0] <= span[1] <= last]
    if outside:
        begin, end = outside[0]
        what = f"offset {begin}" if begin == end else f"all of the offsets {begin} to {end}"
        has = f"it has {first} to {last}" if first <= last else "it has none"
        raise ConfigurationError(
            f"run {run_id!r} has no events of its own at {what}: {has}; what a fork shares with its parent is"
            " erased there; nothing was erased"
        )


def check_before(before: Any) -> None:
    """Raise ConfigurationError unless a history may begin with this offset.

    Args:
        before: The offset.
    """
    check_count("before", before)
    if before is None or before < 1:
        raise ConfigurationError(
            f"before={shown(before)}: pass the offset with which the history is to begin, 1 or more"
        )


def check_truncated(run_id: str, before: int, last: int) -> None:
    """Raise ConfigurationError unless the history of a run can begin with this offset.

    Args:
        run_id: The run.
        before: The offset that it is to begin with.
        last: The offset of its last event.
    """
    if before > last + 1:
        raise ConfigurationError(
            f"before={shown(before)}: run {run_id!r} ends with offset {last}; pass the offset with which its"
            f" history is to begin, 1 to {last + 1}; nothing was truncated"
        )


def check_own(run_id: str, before: int, head: RunHead) -> None:
    """Raise ConfigurationError where a fork is to begin within what it shares with its parent.

    Args:
        run_id: The run.
        before: The offset that it is to begin with.
        head: Where it stands.
    """
    shared = 0 if head.fork_of is None or head.base is not None else head.start.offset
    if 1 < before <= shared:
        raise ConfigurationError(
            f"before={before}: run {run_id!r} shares its history up to offset {shared} with the run that it was"
            f" forked from; pass {shared + 1} to let it begin with its own events; nothing was truncated"
        )


def begins_elsewhere(head: RunHead, base: int) -> bool:
    """Whether the history of a run begins elsewhere than it does, if it begins after this offset.

    Args:
        head: Where the run stands. A fork whose base is its start has no part of its parent's history any more.
        base: The offset.
    """
    before = head.before_first.offset
    has_shared = head.fork_of is not None and head.base is None and before > 0
    return base > before or (has_shared and base == before)


def held_by(run_id: str, holding: Iterable[SnapshotHead], what: str, instead: str) -> ConfigurationError:
    """The error where latest snapshots stand in the way.

    Args:
        run_id: The run.
        holding: These snapshots.
        what: What they do.
        instead: What helps.
    """
    named = ", ".join(
        f"{'its own' if one.lane_id is None else f'that of lane {one.lane_id!r}'} (revision {one.revision}, covers"
        f" {one.offset})"
        for one in sorted(holding, key=lambda one: one.lane_id or "")
    )
    return ConfigurationError(f"run {run_id!r} has latest snapshots that {what}: {named}; {instead}")


def may_hold_erased(run_id: str, holding: Iterable[SnapshotHead], what: str = MAY_HOLD) -> ConfigurationError:
    """The error where latest snapshots may hold what is to be erased.

    Args:
        run_id: The run that has them.
        holding: These snapshots.
        what: ``MAY_HOLD``, or ``MAY_HOLD_SHARED`` where that is erased of a run that it comes from.
    """
    instead = "pass states that hold nothing of it with snapshots=, or let them go with drop_snapshots=True"
    return held_by(run_id, holding, what, f"{instead}; nothing was erased")
