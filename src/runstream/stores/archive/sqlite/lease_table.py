"""The leases in a SQLite file, by the clock of its host. Each function is called within a transaction.

``now`` is Unix time in seconds, read within the transaction: the file may have been locked for a while.
"""

from __future__ import annotations

import sqlite3

from runstream.model.results import LeaseGrant
from runstream.operations.arguments import LeaseRequest
from runstream.stores.local.lease_rules import HeldLease, Leases, check_newest, check_unleased, new_grant

__all__ = ["in_force", "release", "remove_all", "renew", "take"]

_GET_LEASES = """SELECT lane_id, token, owner, expires_at - :now FROM leases
    WHERE run_id = :run_id AND expires_at > :now"""
_GET_LAST_EPOCH = "SELECT coalesce(max(epoch), 0) FROM leases WHERE run_id = ?"
_REMOVE_LEASE = "DELETE FROM leases WHERE run_id = ? AND lane_id IS ?"
_ADD_LEASE = "INSERT INTO leases (run_id, lane_id, owner, epoch, token, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
# when it was taken back or renewed; its epoch stays, so that the next one is higher
_SET_LEASE_END = "UPDATE leases SET expires_at = ? WHERE run_id = ? AND lane_id IS ? AND token = ?"
_REMOVE_LEASES = "DELETE FROM leases WHERE run_id = ?"


def in_force(connection: sqlite3.Connection, now: float, run_id: str) -> Leases:
    """The leases of a run that are in force."""
    rows = connection.execute(_GET_LEASES, {"run_id": run_id, "now": now})
    return {lane_id: HeldLease._make(held) for lane_id, *held in rows}


def take(connection: sqlite3.Connection, now: float, request: LeaseRequest) -> LeaseGrant:
    """Take a lease. Raises LeaseHeld where another is in the way."""
    run_id, lane_id = request.run_id, request.lane_id
    last_epoch = connection.execute(_GET_LAST_EPOCH, (run_id,)).fetchone()[0]
    grant = new_grant(in_force(connection, now, run_id), request, last_epoch, now)
    if lane_id is None:
        connection.execute(_REMOVE_LEASES, (run_id,))
    else:
        connection.execute(_REMOVE_LEASE, (run_id, lane_id))
        connection.execute(_REMOVE_LEASE, (run_id, None))  # one whose deadline is astray is not to come back
    connection.execute(_ADD_LEASE, (run_id, lane_id, grant.owner, grant.epoch, grant.token, now + request.ttl))
    return grant


def renew(connection: sqlite3.Connection, now: float, grant: LeaseGrant) -> None:
    """Extend a lease to its full ttl from now on. Raises LeaseLost where it has passed on or run out."""
    check_newest(in_force(connection, now, grant.run_id), grant)
    _set_end(connection, grant, now + grant.ttl_seconds)


def release(connection: sqlite3.Connection, grant: LeaseGrant) -> None:
    """Give a lease back, unless it has passed on already."""
    _set_end(connection, grant, 0.0)


def remove_all(connection: sqlite3.Connection, now: float, run_id: str) -> None:
    """Remove the leases of a run that is deleted. Raises LeaseHeld while any is in force."""
    check_unleased(run_id, in_force(connection, now, run_id))
    connection.execute(_REMOVE_LEASES, (run_id,))


def _set_end(connection: sqlite3.Connection, grant: LeaseGrant, expires_at: float) -> None:
    connection.execute(_SET_LEASE_END, (expires_at, grant.run_id, grant.lane_id, grant.token))
