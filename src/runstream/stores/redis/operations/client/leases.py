"""Take, renew and give back leases."""

from __future__ import annotations

from dataclasses import replace

from runstream.model.identifiers import lease_token
from runstream.model.results import E, LeaseGrant, S
from runstream.operations.arguments import LeaseRequest
from runstream.operations.messages import lease_lost
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.operations.client.refusals import held
from runstream.stores.redis.operations.server_policy import MEMORY_QUERY, check_policy_reply
from runstream.stores.redis.scripts.calls import lease_call
from runstream.stores.redis.session.session import Session

__all__ = ["give_back_unanswered", "release_lease", "renew_lease", "take_lease"]


def take_lease(session: Session[E, S], request: LeaseRequest) -> Operation[LeaseGrant]:
    """Take the lease of one lane, or (None) of the whole run. Raises LeaseHeld where another is in the way."""
    run_id = request.run_id
    yield from give_back_unanswered(session, run_id)
    grant = LeaseGrant(run_id, request.lane_id, request.owner, 0, lease_token(request.ttl), request.ttl)
    unanswered = [grant]
    try:
        (reply,) = yield Exchange([lease_call(session.keys, "take", grant)], permissive=True)
        unanswered.clear()
    finally:
        session.in_flight.add_leases(unanswered)
    if isinstance(reply, Refusal):
        raise reply.error
    outcome, *facts = reply
    if outcome == b"held":
        raise held(run_id, facts)
    return replace(grant, epoch=int(facts[0]))


def give_back_unanswered(session: Session[E, S], run_id: str) -> Operation[None]:
    """Release leases whose taking got no reply: nobody holds them, and others would wait for them."""
    unanswered = session.in_flight.take_leases(run_id)
    if not unanswered:
        return
    try:
        yield Exchange([lease_call(session.keys, "release", grant) for grant in unanswered])
        unanswered = []
    finally:
        session.in_flight.add_leases(unanswered)


def renew_lease(session: Session[E, S], grant: LeaseGrant) -> Operation[None]:
    """Extend a lease to its full ttl from now on. Raises LeaseLost where it has passed on or run out.

    Raises ConfigurationError where the server may evict it by now.
    """
    reply, memory = yield Exchange([lease_call(session.keys, "renew", grant), MEMORY_QUERY], permissive=True)
    if isinstance(reply, Refusal):
        raise reply.error
    if reply[0] == b"lost":
        raise lease_lost(grant)
    check_policy_reply(memory)


def release_lease(session: Session[E, S], grant: LeaseGrant) -> Operation[None]:
    """Give a lease back, unless it has passed on already."""
    yield Exchange([lease_call(session.keys, "release", grant)])
