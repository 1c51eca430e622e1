"""What was sent and got no reply: whether it was applied is unknown until it is sent again.

A batch is sent again under the same producer and number before anything else of that store goes to its
run: by the caller with the same events, or by whatever it appends next, and by one caller at a time. Its
producer is not used for another batch before. What became of a batch which its caller has not repeated yet
is kept for it. A deletion and a lease that were asked for are remembered, too, so that the next call tells
the run that was deleted from one of the same name, and no lease is left without a holder.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from runstream.model.results import LeaseGrant
from runstream.stores.redis.append_result import Applied, Outcome, TooOld
from runstream.stores.redis.exchange import Command
from runstream.stores.redis.scripts.calls import PRODUCER_WINDOW_SECONDS, Batch, Sending

if TYPE_CHECKING:
    from runstream.stores.redis.session.session import Context

__all__ = ["Attempt", "UnsettledBook"]

_MAX_KEPT_BYTES = 64 * 2**20


@dataclass(slots=True)
class Attempt:
    """A batch on its way, the very call that carries it, and the context of the writer whose batch it is."""

    owner: Context[Any, Any]
    batch: Batch
    call: Command
    sending: Sending
    begun: float = field(default_factory=time.monotonic)

    @property
    def is_old(self) -> bool:
        """Whether the server may have forgotten by now that it was applied."""
        return time.monotonic() - self.begun > PRODUCER_WINDOW_SECONDS / 2


class _Kept(NamedTuple):
    """What became of a batch, and how many bytes it takes to remember it."""

    batch: Batch
    outcome: Outcome
    size: int


class UnsettledBook:
    """What one store object waits to settle, by run. Safe between threads; a fork has none of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start_anew()

    def _start_anew(self) -> None:
        self._process = os.getpid()
        self._attempts: dict[str, list[Attempt]] = {}
        self._busy: set[str] = set()
        self._kept: dict[str, list[_Kept]] = {}
        self._order: deque[_Kept] = deque()  # all that was kept, the oldest first, also if it was claimed since
        self._kept_bytes = 0
        self._deletions: dict[str, tuple[str, float]] = {}
        self._leases: dict[str, list[LeaseGrant]] = {}

    def _own(self) -> None:
        if os.getpid() != self._process:
            self._start_anew()  # it is the parent's to settle

    def __bool__(self) -> bool:
        self._own()
        return not self.is_empty()

    def is_empty(self) -> bool:
        """Whether nothing waits here. In a fork, neither does anything of its parent's then."""
        return not (self._attempts or self._busy or self._kept)

    # -- batches -----------------------------------------------------------------------------------

    def put(self, attempts: Iterable[Attempt]) -> None:
        """Remember attempts that got no reply."""
        with self._lock:
            for attempt in attempts:
                self._attempts.setdefault(attempt.batch.run_id, []).append(attempt)

    def take(self, run_ids: Sequence[str]) -> list[Attempt] | None:
        """The attempts of these runs, for one caller to settle until it calls ``done``.

        None while another one is settling any of these runs: what it finds out has to be waited for.
        """
        with self._lock:
            if not self._busy.isdisjoint(run_ids):
                return None
            taken = [attempt for run_id in run_ids for attempt in self._attempts.pop(run_id, ())]
            self._busy.update(attempt.batch.run_id for attempt in taken)
            return taken

    def done(self, attempts: Iterable[Attempt]) -> None:
        """End what ``take`` began; what got no reply again has been put back before."""
        with self._lock:
            self._busy.difference_update(attempt.batch.run_id for attempt in attempts)

    def keep(self, batch: Batch, outcome: Outcome) -> None:
        """Keep what became of a batch for the caller that may repeat it."""
        # any other refusal has written nothing, and what was refused then is not refused for ever
        if isinstance(outcome, Applied | TooOld):
            kept = _Kept(batch, outcome, 500 + sum(len(event.record) for event in batch.events))
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

    def claim(self, batch: Batch) -> Outcome | None:
        """What became of the same batch, if it was settled in the meantime."""
        with self._lock:
            for kept in self._kept.get(batch.run_id, ()):
                if _is_same(kept.batch, batch):
                    if isinstance(kept.outcome, Applied):  # else it is as unknown the next time
                        self._drop(kept)
                    return kept.outcome
        return None

    def supersede(self, run_id: str, lane_id: str | None) -> None:
        """Note that a snapshot was saved: whoever saves a former one now means to save it again."""
        if run_id not in self._kept:
            return
        with self._lock:
            for kept in tuple(self._kept.get(run_id, ())):
                sent = kept.batch
                if not sent.events and sent.snapshot is not None and sent.snapshot.lane_id == lane_id:
                    self._drop(kept)

    def forget(self, run_id: str) -> None:
        """Give up what waits for a run."""
        with self._lock:
            self._attempts.pop(run_id, None)
            self._kept.pop(run_id, None)

    # -- deletions and leases ----------------------------------------------------------------------

    def begin_deletion(self, run_id: str, start: str) -> None:
        """Note which run of this name is about to be deleted."""
        self._deletions[run_id] = (start, time.monotonic())

    def end_deletion(self, run_id: str) -> None:
        """Note that the reply has come."""
        self._deletions.pop(run_id, None)

    def deletion(self, run_id: str) -> str | None:
        """The start of the run whose deletion got no reply, if that was lately."""
        self._own()
        start, begun = self._deletions.get(run_id, ("", 0.0))
        return start if start and time.monotonic() - begun < PRODUCER_WINDOW_SECONDS else None

    def take_leases(self, run_id: str) -> list[LeaseGrant]:
        """The leases that were asked for and got no reply: whoever takes one gives them back first."""
        self._own()
        with self._lock:
            return self._leases.pop(run_id, [])

    def put_leases(self, grants: Sequence[LeaseGrant]) -> None:
        """Remember leases that were asked for and got no reply."""
        with self._lock:
            for grant in grants:
                self._leases.setdefault(grant.run_id, []).append(grant)


def _is_same(sent: Batch, repeated: Batch) -> bool:
    """Whether a caller has sent the same again: the same events, and the same state in the same place."""
    if sent.expected_offset != repeated.expected_offset:
        return False
    if [event.record for event in sent.events] != [event.record for event in repeated.events]:
        return False
    if sent.snapshot is None or repeated.snapshot is None:
        return sent.snapshot is repeated.snapshot
    return (
        sent.snapshot.lane_id == repeated.snapshot.lane_id
        and sent.snapshot.compare == repeated.snapshot.compare
        and sent.snapshot.changes == repeated.snapshot.changes
        and sent.snapshot.state.fields == repeated.snapshot.state.fields
    )
