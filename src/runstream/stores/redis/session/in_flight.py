"""Batches, deletions and leases in flight: sent, and without a reply, so that their outcome is unknown.

A batch without a reply is resent, under the same producer and number, before anything else of its store object
goes to its run: when the caller repeats the same events, or before the next append. One caller at a time resends
it; until then its producer sends no other batch. The outcome of a batch that its caller has not repeated yet is
kept for that caller.

A deletion and a lease without a reply are remembered, too: so the next deletion does not delete a new run of the
same name, and no lease stays in force that nobody holds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from runstream.model.clock import monotonic_seconds
from runstream.model.results import LeaseGrant
from runstream.operations.forks import starts_anew
from runstream.operations.operation import Command
from runstream.stores.redis.append_batch import Batch, Sending, SnapshotWrite
from runstream.stores.redis.append_result import Applied, Outcome, TooOld
from runstream.stores.redis.scripts.calls import PRODUCER_WINDOW_SECONDS
from runstream.stores.redis.session.held_bytes import held_bytes

__all__ = ["Attempt", "InFlight", "note_unanswered", "unanswered_of"]

W = TypeVar("W")
"""The session of a writer: this module only carries it along."""

_MAX_KEPT_BYTES = 64 * 2**20
_KEPT_BYTES = 1000  # what Python holds for a batch without events, about
_MOST_DELETIONS = 10_000
_EVENT_BYTES = 500  # and for an event beside its records


@dataclass(slots=True)
class Attempt(Generic[W]):
    """One sending of a batch.

    Attributes:
        session: The session of the writer whose batch it is.
        batch: The batch.
        call: The very command that carries it.
        sending: The producer and number under which it is sent, and what the writer saw last.
        begun: When it was first sent, in seconds of the monotonic clock.
        outcome: What became of it, once it was resolved; None until then.
        refusal: The reply that refused it, if an earlier request of it may arrive still.
        is_resent: Whether it was sent more than once: an earlier request may arrive after its reply.
    """

    session: W
    batch: Batch
    call: Command
    sending: Sending
    begun: float = field(default_factory=monotonic_seconds)
    outcome: Outcome | None = None
    refusal: Any = None
    is_resent: bool = False

    @property
    def is_old(self) -> bool:
        """Whether the server may have forgotten by now that it was applied."""
        return time.monotonic() - self.begun > PRODUCER_WINDOW_SECONDS

    @property
    def sending_now(self) -> Sending:
        """How it is sent now: one that is old says so, rather than when it was sent first."""
        return self.sending._replace(sent_at=0) if self.is_old else self.sending


_UNANSWERED = "_runstream_unanswered"


def note_unanswered(error: BaseException, attempts: Sequence[Attempt[Any]]) -> None:
    """Note on an error which attempts it left without a reply."""
    error.__dict__[_UNANSWERED] = attempts


def unanswered_of(error: BaseException) -> Sequence[Attempt[Any]]:
    """The attempts that this error left without a reply."""
    attempts: Sequence[Attempt[Any]] = error.__dict__.get(_UNANSWERED, ())
    return attempts


class _Kept(NamedTuple):
    """The outcome of a batch that its caller has not repeated yet, and how many bytes it takes to keep it."""

    batch: Batch
    outcome: Outcome
    size: int


class InFlight(Generic[W]):
    """The batches, deletions and leases of one store object that got no reply, by run.

    Safe between threads; a forked process begins with none.
    """

    def __init__(self) -> None:
        self._start_anew()
        starts_anew(self)

    def _start_anew(self) -> None:
        """Begin with none: the parent resends what the parent sent."""
        self._lock = threading.Lock()
        self._attempts: dict[str, list[Attempt[W]]] = {}
        self._busy: set[str] = set()
        self._kept: dict[str, list[_Kept]] = {}
        self._order: deque[_Kept] = deque()  # all that was kept, the oldest first, also if it was taken since
        self._kept_bytes = 0
        self._deletions: dict[str, tuple[str, float]] = {}
        self._creations: dict[str, int] = {}  # of what was to be deleted, the oldest first
        self._leases: dict[str, list[LeaseGrant]] = {}

    def __bool__(self) -> bool:
        return not self.is_empty()

    def is_empty(self) -> bool:
        """Whether no batch is here."""
        return not (self._attempts or self._busy or self._kept)

    # -- batches -----------------------------------------------------------------------------------

    def add(self, attempts: Iterable[Attempt[W]]) -> None:
        """Remember attempts that got no reply."""
        with self._lock:
            for attempt in attempts:
                self._attempts.setdefault(attempt.batch.run_id, []).append(attempt)

    def take(self, run_ids: Sequence[str]) -> list[Attempt[W]] | None:
        """Take the attempts of these runs to send them again; ``release`` them when their outcomes are kept.

        Returns:
            The attempts, or None while another caller has taken those of any of these runs: then wait for it.
        """
        with self._lock:
            if not self._busy.isdisjoint(run_ids):
                return None
            taken = [attempt for run_id in run_ids for attempt in self._attempts.pop(run_id, ())]
            self._busy.update(attempt.batch.run_id for attempt in taken)
            return taken

    def release(self, attempts: Iterable[Attempt[W]]) -> None:
        """End what ``take`` began; attempts that again got no reply have been added before."""
        with self._lock:
            self._busy.difference_update(attempt.batch.run_id for attempt in attempts)

    def keep_outcome(self, batch: Batch, outcome: Outcome) -> None:
        """Keep the outcome of a batch for the caller that may repeat it."""
        # after any other refusal nothing was written: the caller may send the batch again as a new one
        if isinstance(outcome, Applied | TooOld):
            size = _KEPT_BYTES + sum(_EVENT_BYTES + event.size for event in batch.events)
            size += sum(held_bytes(write.state) for write in batch.snapshots)
            kept = _Kept(batch, outcome, size)
            with self._lock:
                self._kept.setdefault(batch.run_id, []).append(kept)
                self._order.append(kept)
                self._kept_bytes += kept.size
                while self._kept_bytes > _MAX_KEPT_BYTES:
                    oldest = self._order.popleft()
                    self._kept_bytes -= oldest.size
                    self._drop(oldest)

    def _drop(self, dropped: _Kept) -> None:
        run_id = dropped.batch.run_id
        left = [kept for kept in self._kept.pop(run_id, ()) if kept is not dropped]
        if left:
            self._kept[run_id] = left

    def take_outcome(self, batch: Batch) -> Outcome | None:
        """The outcome of the same batch if one is kept, or None. An unknown one (TooOld) stays kept."""
        with self._lock:
            for kept in self._kept.get(batch.run_id, ()):
                if _is_same(kept.batch, batch):
                    if isinstance(kept.outcome, Applied):  # TooOld stays unknown the next time
                        self._drop(kept)
                    return kept.outcome
        return None

    def take_change(self, run_id: str, change: Callable[[Any], Any]) -> tuple[SnapshotWrite, Outcome] | None:
        """What the same change of the run's state saved, and its outcome, if one is kept for who repeats it."""
        with self._lock:
            for kept in self._kept.get(run_id, ()):
                for write in kept.batch.snapshots:  # a change of a state is sent alone
                    if write.made is not None and write.made.is_same_call(change):
                        if isinstance(kept.outcome, Applied):
                            self._drop(kept)
                        return write, kept.outcome
        return None

    def supersede(self, run_id: str, lane_id: str | None) -> None:
        """Drop the outcomes of snapshots that a newer one replaced: to repeat one means to save it again.

        Those of changes are kept: to repeat one after it was made would make it twice.
        """
        if run_id not in self._kept:
            return
        with self._lock:
            for kept in tuple(self._kept.get(run_id, ())):
                sent = kept.batch
                if not sent.events and any(
                    write.lane_id == lane_id and not write.made for write in sent.snapshots
                ):
                    self._drop(kept)

    def supersede_facts(self, run_id: str) -> None:
        """Drop the outcomes of changes of tags, and of ends of lanes, alone, once others have come after them."""
        if run_id not in self._kept:
            return
        with self._lock:
            for kept in tuple(self._kept.get(run_id, ())):
                if not kept.batch.events and not kept.batch.snapshots:
                    self._drop(kept)

    def forget(self, run_id: str) -> None:
        """Forget a run's attempts and outcomes: they are not sent again."""
        with self._lock:
            self._attempts.pop(run_id, None)
            self._kept.pop(run_id, None)

    # -- deletions and leases ----------------------------------------------------------------------

    def begin_deletion(self, run_id: str, start: str) -> None:
        """Note which run of this name, by its start, is about to be deleted."""
        self._deletions[run_id] = (start, time.monotonic())

    def end_deletion(self, run_id: str) -> None:
        """Note that the reply to a deletion has come."""
        self._deletions.pop(run_id, None)

    def unanswered_deletion(self, run_id: str) -> str | None:
        """The start of the run whose deletion got no reply within the deduplication window, or None."""
        start, begun = self._deletions.get(run_id, ("", 0.0))
        return start if start and time.monotonic() - begun < PRODUCER_WINDOW_SECONDS else None

    def deletion_of(self, run_id: str, creation: int | None) -> int | None:
        """Names the run that is to be deleted; where it is not there any more, the last one that was."""
        with self._lock:
            if creation is None:
                return self._creations.get(run_id)
            self._creations.pop(run_id, None)
            self._creations[run_id] = creation
            if len(self._creations) > _MOST_DELETIONS:
                del self._creations[next(iter(self._creations))]
            return creation

    def take_leases(self, run_id: str) -> list[LeaseGrant]:
        """Take the leases that were asked for and got no reply: they are released before another is taken."""
        with self._lock:
            return self._leases.pop(run_id, [])

    def add_leases(self, grants: Sequence[LeaseGrant]) -> None:
        """Remember leases that were asked for and got no reply."""
        with self._lock:
            for grant in grants:
                self._leases.setdefault(grant.run_id, []).append(grant)


def _is_same(sent: Batch, repeated: Batch) -> bool:
    """Whether a caller repeats a batch: the same events, tags, and the same states for the same snapshots."""
    former = sent.expected_offset, sent.end_lanes, sent.tags
    if former != (repeated.expected_offset, repeated.end_lanes, repeated.tags):
        return False
    if [event.given for event in sent.events] != [event.given for event in repeated.events]:
        return False
    return len(sent.snapshots) == len(repeated.snapshots) and all(
        map(_is_same_write, sent.snapshots, repeated.snapshots)
    )


def _is_same_write(sent: SnapshotWrite, repeated: SnapshotWrite) -> bool:
    if sent.made or repeated.made:
        return sent is repeated
    return (
        sent.lane_id == repeated.lane_id
        and sent.compare == repeated.compare
        and sent.changes == repeated.changes
        and sent.state.fields == repeated.state.fields
    )
