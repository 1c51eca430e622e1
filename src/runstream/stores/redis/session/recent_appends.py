"""The events that a store object appended last, to be appended again if the server loses them.

A fixed number of bytes is held, over all runs; it is known from which runs events were dropped. Of what was lost,
the former cursors are known, too: a person may let the run have that history again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, NamedTuple

from runstream.codec.encoded_event import EncodedEvent
from runstream.model.errors import RunstreamError
from runstream.model.results import Cursor
from runstream.operations.forks import starts_anew
from runstream.stores.redis.append_batch import Batch
from runstream.stores.redis.append_result import Written
from runstream.stores.redis.session.in_flight import Attempt

__all__ = ["RecentAppends"]

_MAX_BYTES = 16 * 2**20
_MAX_INCOMPLETE = 16_384
_MOST_LATE = 100  # of a run: a failover loses what came last


class _Lost(NamedTuple):
    """What the server has lost of a run, in order, and the error that says so.

    Attributes:
        events: The events.
        loss: The error.
        left: The last offset held of what was not lost.
        unanswered: What is sent again at present.
    """

    events: Sequence[EncodedEvent]
    loss: RunstreamError
    left: int
    unanswered: Batch | None = None


class RecentAppends:
    """The events that one store object appended last, by run. Safe between threads; a fork begins empty.

    Args:
        max_bytes: How many bytes of records to hold, over all runs.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._start_anew()
        starts_anew(self)

    def _start_anew(self) -> None:
        """Begin empty: the parent resends what the parent appended."""
        self._lock = threading.Lock()
        self._runs: dict[str, deque[Written]] = {}
        self._order: deque[str] = deque()  # the run of each event, the oldest first
        self._bytes = 0
        self._incomplete: set[str] = set()
        self._knows_incomplete = True
        self._busy: set[str] = set()
        self._histories: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._lost: dict[str, _Lost] = {}
        self._former: dict[str, list[dict[int, Written]]] = {}  # by loss, and by id(event)
        self._late: dict[str, deque[Attempt[Any]]] = {}

    def add(self, run_id: str, history: int, written: Iterable[Written]) -> None:
        """Hold events that were acknowledged; the oldest of any run are dropped for them.

        Events of another history, a former run of the same name, are dropped at once.

        Args:
            run_id: The run.
            history: The first chain of the history that the events are in.
            written: The events, with their cursors.
        """
        with self._lock:
            if self._histories.get(run_id, history) != history:
                for _, event in self._runs.get(run_id, ()):
                    self._forget_former(run_id, event)
                self._drop_run(run_id)
            self._histories[run_id] = history
            for one in written:
                self._runs.setdefault(run_id, deque()).append(one)
                self._order.append(run_id)
                self._bytes += one[1].size
            while self._bytes > self._max_bytes:
                self._drop_oldest(self._order.popleft())

    def _drop_oldest(self, run_id: str) -> None:
        events = self._runs[run_id]
        _, event = events.popleft()
        self._bytes -= event.size
        self._forget_former(run_id, event)
        if not events:
            del self._runs[run_id]
            self._histories.pop(run_id, None)
            if run_id not in self._lost:
                self._late.pop(run_id, None)
        self._incomplete.add(run_id)
        if len(self._incomplete) > _MAX_INCOMPLETE:
            self._incomplete.clear()
            self._knows_incomplete = False

    def _forget_former(self, run_id: str, event: EncodedEvent) -> None:
        if losses := self._former.get(run_id):
            for written in losses:
                written.pop(id(event), None)
            losses[:] = filter(None, losses)

    def get(self, run_id: str) -> Sequence[Written]:
        """The events held of a run, in the order of their offsets: threads may get their replies in another."""
        with self._lock:
            return sorted(self._runs.get(run_id, ()), key=lambda written: written[0].offset)

    def is_complete(self, run_id: str) -> bool:
        """Whether all events that this store appended to the run are held."""
        with self._lock:
            return self._knows_incomplete and run_id not in self._incomplete

    def keep_only(self, run_id: str, written: Sequence[Written]) -> None:
        """Hold these events of the run, and drop its others."""
        with self._lock:
            history = self._histories.get(run_id, 0)
            self._drop_run(run_id)
        self.add(run_id, history, written)

    def forget(self, run_id: str) -> None:
        """Forget a run: what is held of it, and what it has lost."""
        with self._lock:
            self._lost.pop(run_id, None)
            self._former.pop(run_id, None)
            self._late.pop(run_id, None)
            self._drop_run(run_id)

    def _drop_run(self, run_id: str) -> None:
        if events := self._runs.pop(run_id, None):
            self._bytes -= sum(event.size for _, event in events)
            self._order = deque(other for other in self._order if other != run_id)
        self._histories.pop(run_id, None)
        self._incomplete.discard(run_id)
        self._read.pop(run_id, None)

    def mark_read(self, run_id: str, offset: int) -> None:
        """Note up to which offset this store has read a run that it writes to, other writers' events included."""
        with self._lock:
            if run_id in self._runs:
                self._read[run_id] = max(offset, self._read.get(run_id, 0))

    def has_read_others(self, run_id: str, after: int, own: Iterable[int]) -> bool:
        """Whether this store has read events after an offset that are not among its own, at these offsets."""
        with self._lock:
            upto = self._read.get(run_id, 0)
        return upto - after > sum(after < offset <= upto for offset in own)

    def mark_lost(self, run_id: str, written: Sequence[Written], loss: RunstreamError) -> None:
        """Hold events that the server has lost until they are resent, and the error that says so."""
        with self._lock:
            former = self._lost.get(run_id)
            events = [event for _, event in written]
            left = max((cursor.offset for cursor, _ in self._runs.get(run_id, ())), default=0)
            self._lost[run_id] = _Lost([*(former.events if former else ()), *events], loss, left)
            self._former.setdefault(run_id, []).append({id(event): (cursor, event) for cursor, event in written})
            self._read.pop(run_id, None)

    def former(self, run_id: str) -> Sequence[Sequence[Written]]:
        """For each loss, those of its events that are lost now, with the cursors that they had then, in order."""
        with self._lock:
            lost = self._lost_ids(run_id)
            return [
                sorted((one for key, one in written.items() if key in lost), key=lambda one: one[0].offset)
                for written in self._former.get(run_id, ())
            ]

    def _lost_ids(self, run_id: str) -> set[int]:
        found = self._lost.get(run_id)
        return set(map(id, found.events if found else ()))

    def last_since_loss(self, run_id: str) -> Cursor | None:
        """The last cursor held that no history before the last loss had: where it is, what was lost is not."""
        with self._lock:
            left = self._lost[run_id].left if run_id in self._lost else 0
            before = {cursor for written in self._former.get(run_id, ()) for cursor, _ in written.values()}
            since = {cursor for cursor, _ in self._runs.get(run_id, ()) if cursor.offset > left} - before
            return max(since, default=None)

    def lost(self, run_id: str) -> Sequence[EncodedEvent]:
        """The events that are to be resent, in order."""
        with self._lock:
            found = self._lost.get(run_id)
            return tuple(found.events) if found else ()

    def loss_of(self, run_id: str) -> RunstreamError:
        """What says that these events were lost."""
        with self._lock:
            return copy(self._lost[run_id].loss)

    def unanswered(self, run_id: str) -> Batch | None:
        """The lost events that were sent again, and of which it is not known whether they are there."""
        with self._lock:
            found = self._lost.get(run_id)
            return found.unanswered if found else None

    def mark_sent(self, run_id: str, batch: Batch) -> None:
        """Note that these of the lost events are sent again, until it is known what came of it."""
        with self._lock:
            if found := self._lost.get(run_id):
                self._lost[run_id] = found._replace(unanswered=batch)

    def note_late(self, attempt: Attempt[Any]) -> None:
        """Note that an earlier request of a batch that was answered may arrive still; the last such are held."""
        attempt.call = ()  # it is not sent again
        with self._lock:
            self._late.setdefault(attempt.batch.run_id, deque(maxlen=_MOST_LATE)).append(attempt)

    def late(self, run_id: str) -> Sequence[Attempt[Any]]:
        """The batches with lost events of which an earlier request may arrive still."""
        with self._lock:
            lost = self._lost_ids(run_id)
            return [one for one in self._late.get(run_id, ()) if not lost.isdisjoint(map(id, one.batch.events))]

    def drop_late(self, run_id: str, attempts: Sequence[Attempt[Any]]) -> None:
        """Note that no request of these batches is applied any more."""
        with self._lock:
            done = set(map(id, attempts))
            if left := [one for one in self._late.pop(run_id, ()) if id(one) not in done]:
                self._late[run_id] = deque(left, maxlen=_MOST_LATE)

    def mark_answered(self, run_id: str, resent: Iterable[EncodedEvent] = ()) -> None:
        """Note that nothing of the lost events is on its way any more, and which of them are there again."""
        with self._lock:
            there = set(map(id, resent))
            lost = self._lost.pop(run_id, None)
            if lost and (left := [event for event in lost.events if id(event) not in there]):
                self._lost[run_id] = lost._replace(events=left, unanswered=None)

    def begin_resend(self, run_id: str) -> bool:
        """Become the one caller that resends what a run has lost; False while another thread or task is."""
        with self._lock:
            is_free = run_id not in self._busy
            self._busy.add(run_id)
            return is_free

    def end_resend(self, run_id: str) -> None:
        """Let other callers resend for the run again."""
        with self._lock:
            self._busy.discard(run_id)
