"""Take, renew and give back leases."""

from __future__ import annotations

from dataclasses import replace

from runstream.model.names import check_run_id
from runstream.model.values import E, LeaseGrant, S
from runstream.stores.redis.context import Context, random_token
from runstream.stores.redis.exchange import Exchange, Operation
from runstream.stores.redis.operations.sending import held
from runstream.stores.redis.scripts import lease_call
from runstream.stores.refusals import lease_lost

__all__ = ["asked_for", "release_lease", "renew_lease", "take_lease"]


def asked_for(run_id: str, *, owner: str, lane_id: str | None, ttl: float) -> LeaseGrant:
    """The lease to take, with its token and without its epoch: so it can be given back if no reply comes."""
    check_run_id(run_id)
    return LeaseGrant(run_id, lane_id, owner, 0, random_token(), ttl)


def take_lease(context: Context[E, S], grant: LeaseGrant) -> Operation[LeaseGrant]:
    """Take the lease of one lane, or of the whole run. Raises LeaseHeld where another is in the way."""
    asked = [*context.unsettled.take_leases(grant.run_id), grant]
    try:
        # those that got no reply first: nobody holds them, and all would have to wait for them
        *_, (outcome, *facts) = yield Exchange(
            [
                *(lease_call(context.keys, "release", former) for former in asked[:-1]),
                lease_call(context.keys, "take", grant),
            ]
        )
        asked = []
    finally:
        context.unsettled.put_leases(asked)
    if outcome == b"held":
        raise held(grant.run_id, facts)
    return replace(grant, epoch=int(facts[0]))


def renew_lease(context: Context[E, S], grant: LeaseGrant) -> Operation[None]:
    """Let it last for its whole ttl from now on. Raises LeaseLost where it has passed on or run out."""
    ((outcome, *_),) = yield Exchange([lease_call(context.keys, "renew", grant)])
    if outcome == b"lost":
        raise lease_lost(grant)


def release_lease(context: Context[E, S], grant: LeaseGrant) -> Operation[None]:
    """Give it back, unless it has passed on already."""
    yield Exchange([lease_call(context.keys, "release", grant)])
