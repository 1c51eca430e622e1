"""The leases of runs in memory; the caller holds the memory's lock."""

from __future__ import annotations

from typing import NamedTuple

from runstream.model.results import LeaseGrant
from runstream.operations.arguments import LeaseRequest
from runstream.stores.local.lease_rules import HeldLease, Leases, check_newest, check_unleased, new_grant

__all__ = ["GivenLeases"]


class _GivenLease(NamedTuple):
    """A lease that was given out, and when it runs out: Unix time in seconds."""

    grant: LeaseGrant
    expires_at: float


class GivenLeases:
    """The last lease of each lane and of each run: also one that is over, so that the next epoch is higher."""

    def __init__(self) -> None:
        self._given: dict[str, dict[str | None, _GivenLease]] = {}

    def in_force(self, now: float, run_id: str) -> Leases:
        """The leases of a run that are in force."""
        return {
            lane_id: HeldLease(lease.grant.token, lease.grant.owner, lease.expires_at - now)
            for lane_id, lease in self._given.get(run_id, {}).items()
            if lease.expires_at > now
        }

    def take(self, now: float, request: LeaseRequest) -> LeaseGrant:
        """Take a lease. Raises LeaseHeld where another is in the way."""
        given = self._given.setdefault(request.run_id, {})
        last_epoch = max((lease.grant.epoch for lease in given.values()), default=0)
        grant = new_grant(self.in_force(now, request.run_id), request, last_epoch, now)
        given[request.lane_id] = _GivenLease(grant, now + request.ttl)
        return grant

    def renew(self, now: float, grant: LeaseGrant) -> None:
        """Extend a lease to its full ttl from now on. Raises LeaseLost where it has passed on or run out."""
        check_newest(self.in_force(now, grant.run_id), grant)
        self._given[grant.run_id][grant.lane_id] = _GivenLease(grant, now + grant.ttl_seconds)

    def release(self, grant: LeaseGrant) -> None:
        """Give a lease back, unless it has passed on already."""
        given = self._given.get(grant.run_id, {})
        if grant.lane_id in given and given[grant.lane_id].grant.token == grant.token:
            given[grant.lane_id] = _GivenLease(grant, 0.0)

    def remove_all(self, now: float, run_id: str) -> None:
        """Remove the leases of a run that is deleted. Raises LeaseHeld while any is in force."""
        check_unleased(run_id, self.in_force(now, run_id))
        self._given.pop(run_id, None)
