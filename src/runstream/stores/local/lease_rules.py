"""The rules of leases, for stores that keep them here rather than in Redis: memory and SQLite. Pure.

A store passes the leases of a run that are in force by its own clock, within one atomic step of its own, and
learns whether a write may go on, or which lease to give out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import lease_token
from runstream.model.results import LeaseGrant
from runstream.operations.arguments import LeaseRequest
from runstream.operations.messages import lease_held, lease_lost

__all__ = [
    "HeldLease",
    "Leases",
    "check_newest",
    "check_only",
    "check_unleased",
    "check_write",
    "new_grant",
    "no_leases",
]

_MICROSECONDS = 1_000_000


class HeldLease(NamedTuple):
    """A lease that is in force: its token, who holds it, and in how many seconds it runs out."""

    token: str
    owner: str
    expires_in: float

    @property
    def is_astray(self) -> bool:
        """Whether its deadline lies further ahead than it lasts, twice: the clock that set it was ahead.

        It is in nobody's way, and its holder has it until another takes it.
        """
        _, dot, lasts = self.token.partition(".")  # up to 0.1.0 a token did not tell
        return bool(dot) and self.expires_in > 2 * int(lasts) / _MICROSECONDS


Leases: TypeAlias = Mapping[str | None, HeldLease]
"""The leases of a run that are in force, by the lane that they are on; None is the whole run."""


def check_newest(leases: Leases, grant: LeaseGrant) -> None:
    """Raise LeaseLost unless this is the lease in force on its lane or run."""
    held = leases.get(grant.lane_id)
    if held is None or held.token != grant.token:
        raise lease_lost(grant)


def check_write(run_id: str, leases: Leases, grant: LeaseGrant | None, lanes: Iterable[str]) -> None:
    """Whether a write that touches these lanes may go on under this lease, or under none.

    Raises LeaseLost if its own is not in force, LeaseHeld where another one is in its way.
    """
    if grant is not None:
        check_newest(leases, grant)
    if not leases:
        return  # nearly always
    for scope in (None, *lanes):
        held = leases.get(scope)
        if held is not None and not held.is_astray and (grant is None or held.token != grant.token):
            raise lease_held(run_id, scope, held.owner, held.expires_in)


def check_only(run_id: str, leases: Leases, grant: LeaseGrant | None) -> None:
    """Whether a change to all of a run may go on under this lease, or under none.

    Raises LeaseLost if its own is not in force, LeaseHeld where any other is.
    """
    check_write(run_id, leases, grant, [scope for scope in leases if scope is not None])


def check_unleased(run_id: str, leases: Leases) -> None:
    """Raise LeaseHeld if any lease is in force."""
    for scope, held in leases.items():
        if held.is_astray:
            continue
        raise lease_held(run_id, scope, held.owner, held.expires_in)


def new_grant(leases: Leases, request: LeaseRequest, last_epoch: int, now: float) -> LeaseGrant:
    """The lease to give out, which replaces the one in force on that lane or run.

    Args:
        leases: Those of the run that are in force.
        request: Which one is asked for.
        last_epoch: The highest epoch that the run has had; 0 for none.
        now: Unix time in seconds.

    Raises:
        LeaseHeld: Another one is in the way.
    """
    lane_id = request.lane_id
    for scope, held in leases.items():
        # an owner gets its own lease back; the run's lease and a lane's exclude each other, whoever holds them
        is_in_the_way = held.owner != request.owner if scope == lane_id else None in (scope, lane_id)
        if is_in_the_way and not held.is_astray:
            raise lease_held(request.run_id, scope, held.owner, held.expires_in)
    epoch = max(int(now * _MICROSECONDS), last_epoch + 1)
    return LeaseGrant(request.run_id, lane_id, request.owner, epoch, lease_token(request.ttl), request.ttl)


def no_leases(run_id: str) -> ConfigurationError:
    """The error for a lease on a run of a store that has none.

    Args:
        run_id: The run.
    """
    return ConfigurationError(
        f"this store of run {run_id!r:.80} has no leases: take them in Redis, in SQLite or in memory"
    )
