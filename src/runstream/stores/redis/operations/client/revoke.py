"""Revoke batches: those that are refused while a request of theirs is under way, and those that are too large.

Where a request got no reply, it may only be late. If it was sent again, and that was refused, it would be applied
as soon as what refused it has passed, though the caller was told that nothing was written.

A server, or a proxy before it, that refuses so many bytes closes the connection while they are sent, so that
nobody reads why. Sent again, the batch would fail for ever, and hold up what this store sends next to its run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.replies import parse_map
from runstream.stores.redis.scripts.calls import revoke_call
from runstream.stores.redis.session.in_flight import Attempt

__all__ = ["LARGE_BYTES", "is_large", "revoke", "withdraw"]

LARGE_BYTES = 2**20
"""No server refuses less for its size: `proto-max-bulk-len` and `client-query-buffer-limit` cannot be smaller."""


_STAY_REFUSED = (b"revoked", b"stale", b"partitions", b"damaged", b"unfinished")
"""The codes of the append script after which an earlier request is refused, too, when it arrives."""


def is_large(attempts: Sequence[Attempt[Any]]) -> bool:
    """Whether the server may have refused these for their size."""
    return sum(map(len, _values(attempts))) >= LARGE_BYTES


def withdraw(attempt: Attempt[Any], refusal: Any) -> Operation[Any]:
    """See to it that a batch which is refused is not applied after that, by a request that got no reply.

    Args:
        attempt: The attempt.
        refusal: The reply that refuses it.

    Returns:
        That reply, or the one of the late request where it was applied after all.

    Raises:
        StoreUnavailable: There is no answer: whether it is applied is not known.
    """
    # what is sent again as an old one is stale by that alone, and an earlier request of it may not be
    is_old = isinstance(refusal, list) and refusal[0] == b"stale" and attempt.is_old
    if isinstance(refusal, list) and refusal[0] in _STAY_REFUSED and not is_old:
        return refusal
    if isinstance(refusal, Refusal) and not refusal.is_full:  # the server refuses this as well
        return refusal
    attempt.refusal = refusal
    call = revoke_call(attempt.session.keys, attempt.batch.run_id, attempt.sending)
    (reply,) = yield Exchange([call], permissive=True)
    return refusal if isinstance(reply, Refusal) or reply == [b"revoked"] else reply


def revoke(attempts: Sequence[Attempt[Any]], error: StoreUnavailable) -> Operation[list[Any]]:
    """Find out what became of attempts, and see to it that those that were not applied never are.

    Args:
        attempts: The attempts.
        error: How they failed.

    Returns:
        The reply to each, as the append script gives it; for one that was revoked, the error that says so.

    Raises:
        StoreUnavailable: The server does not answer this either.
    """
    calls = [revoke_call(each.session.keys, each.batch.run_id, each.sending) for each in attempts]
    *replies, limit = yield Exchange([*calls, (b"CONFIG", b"GET", b"proto-max-bulk-len")], permissive=True)
    return [
        _refused(attempt, limit, error) if isinstance(reply, list) and reply[0] == b"revoked" else reply
        for attempt, reply in zip(attempts, replies, strict=True)
    ]


def _refused(attempt: Attempt[Any], limit: Any, error: StoreUnavailable) -> RunstreamError:
    values = _values([attempt])
    largest, run_id = max(map(len, values)), attempt.batch.run_id
    known = None if isinstance(limit, Refusal) else parse_map(limit).get(b"proto-max-bulk-len")
    if known is not None and int(known) < largest:
        return ConfigurationError(
            f"the server takes no value of more than {int(known)} bytes (proto-max-bulk-len), and one of this"
            f" append to run {run_id!r} has {largest}: nothing was written; raise that limit, or store less"
            " at once"
        )
    return StoreUnavailable(
        f"{error.reason}, each time that an append of {sum(map(len, values))} bytes to run {run_id!r} was sent,"
        " while the server answers other calls: nothing was written",
        next_step="it, or a proxy before it, may refuse so much at once (proto-max-bulk-len): store less at once,"
        " or send the same events again",
    )


def _values(attempts: Sequence[Attempt[Any]]) -> list[bytes]:
    return [value for attempt in attempts for value in attempt.call if isinstance(value, bytes)]
