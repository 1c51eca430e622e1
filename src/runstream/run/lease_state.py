"""The holder's side of a lease, as operations: what it knows of the lease, and what it does with it.

A store gives a lease (:class:`~runstream.model.results.LeaseGrant`) and checks it at every write, by its own
clock: that is what keeps a writer out that was stopped for too long, and this module has no part in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Generic

from runstream.model.errors import (
    ConfigurationError,
    InvalidRunId,
    LeaseHeld,
    LeaseLost,
    RunstreamError,
    StoreUnavailable,
)
from runstream.model.identifiers import snapshot_lane
from runstream.model.results import Appended, E, LeaseGrant, S
from runstream.operations.arguments import AppendOptions, LeasedAppend, LeaseRequest
from runstream.operations.forks import starts_anew
from runstream.operations.interface import StoreOperations
from runstream.operations.operation import Operation, Pause

__all__ = ["LeaseState", "new_owner", "take_lease"]

_LONGEST_POLL_SECONDS = 0.05
_RENEWALS_PER_TTL = 3
_ATTEMPTS_PER_RENEWAL = 4  # while the store cannot be reached


def new_owner() -> str:
    """A name that no other process has, with the host name and process id for people."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def take_lease(operations: StoreOperations[E, S], request: LeaseRequest) -> Operation[tuple[LeaseGrant, float]]:
    """Take a lease, asking again for ``request.wait`` seconds while another one is in the way.

    Returns:
        The lease, and the ``time.monotonic()`` from before it was asked for.

    Raises:
        LeaseHeld: Another one was in the way all the time.
    """
    request.check()
    deadline = time.monotonic() + request.wait
    while True:
        asked_at = time.monotonic()
        try:
            return (yield from operations.take_lease(request)), asked_at
        except LeaseHeld as held:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            pause = min(left, held.expires_in, _LONGEST_POLL_SECONDS)
        yield Pause(pause)


class LeaseState(ABC, Generic[E, S]):
    """The holder's side of a lease: a local deadline that is never later than the store's own.

    Args:
        operations: The store that gave it, and that is written to under it.
        grant: The lease as the store gave it.
        asked_at: ``time.monotonic()`` from before it was asked for.
    """

    def __init__(self, operations: StoreOperations[E, S], grant: LeaseGrant, asked_at: float) -> None:
        self.grant = grant
        self._operations = operations
        self._until = asked_at + grant.ttl_seconds
        self._is_over = False
        self._refusal: ConfigurationError | None = None
        self._is_forked = False
        starts_anew(self)

    def __repr__(self) -> str:
        """What it is on, whose it is, its epoch, and whether it is known to be lost."""
        on = "the whole run" if self.lane_id is None else f"lane {self.lane_id!r}"
        lost = ", lost" if self.lost else ""
        return f"<{type(self).__name__} on {self.run_id!r}, {on}, owner {self.owner!r}, epoch {self.epoch}{lost}>"

    def _start_anew(self) -> None:
        """Have no part in the lease: it is the parent's, which renews it and gives it back."""
        self._is_forked = True

    @property
    def run_id(self) -> str:
        """The run."""
        return self.grant.run_id

    @property
    def lane_id(self) -> str | None:
        """The lane, or None for the whole run."""
        return self.grant.lane_id

    @property
    def owner(self) -> str:
        """Who holds it."""
        return self.grant.owner

    @property
    def epoch(self) -> int:
        """A number that only rises from one lease of a run to the next: a fencing token for other systems."""
        return self.grant.epoch

    @property
    def lost(self) -> bool:
        """Whether it is known to have passed on, been given back, or run out. False is no proof: ask ``check``."""
        return self._is_over or self._is_forked or time.monotonic() >= self._until

    # -- operations --------------------------------------------------------------------------------

    def _renewing(self) -> Operation[None]:
        """Renew once; the ttl counts from before the request was sent."""
        asked_at = time.monotonic()
        if self._is_over:
            raise LeaseLost(
                f"the lease of {self.owner!r} on run {self.run_id!r} was given back or is known to be lost: take a"
                " new one"
            )
        self._refusal = None
        with self._noting_loss():
            try:
                yield from self._operations.renew_lease(self.grant)
            except ConfigurationError as error:
                self._refusal = error  # a renewal in the background has nobody else to tell
                raise
        self._until = max(self._until, asked_at + self.grant.ttl_seconds)

    def _releasing(self, error: BaseException | None = None) -> Operation[None]:
        """Give the lease back, once. A failure here while ``error`` is in flight becomes a note on that one."""
        if self._is_forked:
            return
        self._stop_renewing()
        if self._is_over:
            return
        self._is_over = True
        try:
            with contextlib.suppress(StoreUnavailable):  # then it runs out by itself
                yield from self._operations.release_lease(self.grant)
        except RunstreamError as failure:
            if error is None:
                raise
            error.add_note(f"runstream: the lease could not be given back: {failure}")

    def _appending(self, run_id: str, events: Iterable[E], options: LeasedAppend[S]) -> Operation[Appended]:
        self._check_run(run_id)
        lane_id = None if options.get("snapshots") is not None else snapshot_lane(self.lane_id)
        with self._noting_loss():
            result = yield from self._operations.append(
                run_id, events, AppendOptions(**options, lease=self, lane_id=lane_id)
            )
        return result.appended

    def _saving_snapshot(self, run_id: str, state: S) -> Operation[None]:
        self._check_run(run_id)
        with self._noting_loss():
            yield from self._operations.save_snapshot(run_id, state, snapshot_lane(self.lane_id), self)

    def _loading_latest(self, run_id: str) -> Operation[S | None]:
        self._check_run(run_id)
        snapshot = yield from self._operations.load_snapshot(run_id, snapshot_lane(self.lane_id))
        return None if snapshot is None else snapshot.state

    def _listing_events(self, run_id: str, since_seq: int) -> Operation[list[E]]:
        self._check_run(run_id)
        return (yield from self._operations.list_events(run_id, since_seq))

    @abstractmethod
    def _stop_renewing(self) -> None:
        """Stop the renewal in the background."""

    def _keep_renewing(self) -> None:
        """Renew it here if it is renewed nowhere any more."""

    # -- inside ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _noting_loss(self) -> Iterator[None]:
        """A context in which LeaseLost marks the lease as lost.

        A forked process has no lease and is refused; so is all else once a renewal was refused.
        """
        if self._is_forked:
            raise LeaseLost(
                f"the lease of {self.owner!r} on run {self.run_id!r} is the parent process's; nothing was written:"
                " a forked process takes one of its own"
            )
        if self._refusal is not None:
            raise self._refusal
        self._keep_renewing()
        try:
            yield
        except LeaseLost:
            self._is_over = True
            raise

    def _pause(self, *, failed: bool) -> float:
        """Seconds until the next renewal; sooner after one that the store did not answer."""
        pause = self.grant.ttl_seconds / _RENEWALS_PER_TTL
        return pause / _ATTEMPTS_PER_RENEWAL if failed else pause

    def _check_run(self, run_id: Any) -> None:
        if run_id != self.run_id:
            raise InvalidRunId(
                f"this lease is on run {self.run_id!r:.80}, not on {run_id!r:.80}: write that through its store"
            )
