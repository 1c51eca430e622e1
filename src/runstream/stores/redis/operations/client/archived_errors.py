"""The errors for what has left Redis: they name the archives that have it."""

from __future__ import annotations

from runstream.model.errors import EventsArchived
from runstream.model.results import E, S
from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.replies import parse_cursor, parse_map
from runstream.stores.redis.session.session import Session

__all__ = ["events_archived", "lanes_away", "retired_away", "snapshots_away", "states_away"]

_TIERED = "through a tiered store (connect(url, archive=…), --archive)"


def events_archived(session: Session[E, S], run_id: str, first: int) -> Operation[EventsArchived]:
    """The error for events from ``first`` on that have left Redis."""
    first_hot, archives = yield from _facts(session, run_id, first)
    return EventsArchived(
        f"events {first} to {first_hot - 1} of run {run_id!r} have left Redis for {_listed(archives)}; read them"
        f" there, or read on from offset {first_hot} (after={first_hot - 1})",
        run_id=run_id,
        first_hot=first_hot,
        archives=archives,
    )


def retired_away(session: Session[E, S], run_id: str, lane_id: str | None) -> Operation[EventsArchived]:
    """The error for a retired run whose snapshot, or (for a lane) all that was known of the lane, left Redis.

    A lane may have left alone, as it was ended.
    """
    why = "was retired: its snapshot has" if lane_id is None else _of_lane(lane_id)
    then = "; load or recover it from there, or use a tiered store"
    return (yield from _left(session, run_id, f"run {run_id!r} {why}", then))


def lanes_away(session: Session[E, S], run_id: str) -> Operation[EventsArchived]:
    """The error for the lanes of a run of which some have left Redis."""
    then = "; list them there, or use a tiered store"
    return (yield from _left(session, run_id, f"lanes of run {run_id!r} have", then))


def snapshots_away(session: Session[E, S], run_id: str, what: str, instead: str) -> Operation[EventsArchived]:
    """The error for latest snapshots of a run that have left Redis, and stand in the way there.

    Args:
        session: The session.
        run_id: The run.
        what: What they may do.
        instead: What helps beside a tiered store.
    """
    then = f", and {what}: ask {_TIERED}{instead}"
    return (yield from _left(session, run_id, f"run {run_id!r} has latest snapshots that have", then))


def states_away(session: Session[E, S], run_id: str, at: int) -> Operation[EventsArchived | None]:
    """The error for a run of which states up to an offset have left Redis that stand for truncated events.

    None where no archive is known that may have them.
    """
    what = f"the history of run {run_id!r} was truncated, and states that stand for what went may have"
    error = yield from _left(session, run_id, what, f": fork it at offset {at} {_TIERED}")
    return error if error.archives else None


def _left(session: Session[E, S], run_id: str, what: str, then: str) -> Operation[EventsArchived]:
    """The error for what of a run has left Redis, with what it says before that, and after the archives."""
    first_hot, archives = yield from _facts(session, run_id, 1)
    return EventsArchived(
        f"{what} left Redis for {_listed(archives)}{then}", run_id=run_id, first_hot=first_hot, archives=archives
    )


def _of_lane(lane_id: str) -> str:
    return f"was retired, or lanes of it have ended: whatever it had of lane {lane_id!r} has"


def _facts(session: Session[E, S], run_id: str, first: int) -> Operation[tuple[int, list[str]]]:
    """The first offset in Redis that is not below ``first``, and the locations of the archives."""
    keys = session.keys.run(run_id)
    queries = [
        (b"XRANGE", keys.events, str(first), "+", b"COUNT", 1),
        (b"HGET", keys.meta, "last"),
        (b"HGETALL", keys.partition.archives),
    ]
    entries, last, archives = yield Exchange(queries, atomic=True)
    first_hot = parse_cursor(entries[0][0]).offset if entries else parse_cursor(last or b"0-0").offset + 1
    return first_hot, sorted(location.decode(errors="replace") for location in parse_map(archives).values())


def _listed(archives: list[str]) -> str:
    return ", ".join(archives) or "the archive"
