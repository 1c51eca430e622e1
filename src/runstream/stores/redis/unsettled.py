"""Batches that were sent and got no reply: whether they were applied is unknown until they are sent again.

They are sent again under the same producer and number before anything else of that store goes to their
run: by the caller with the same events, or by whatever it appends next. Their producer is not used for
another batch before. What became of a batch
which its caller has not repeated yet is kept for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from runstream.stores.redis.exchange import ScriptCall
from runstream.stores.redis.outcomes import Applied, Outcome
from runstream.stores.redis.scripts import PRODUCER_WINDOW_SECONDS, Batch, Sending

__all__ = ["Attempt", "UnsettledBook"]

_MAX_KEPT = 256


@dataclass(slots=True)
class Attempt:
    """A batch on its way, and the very call that carries it."""

    batch: Batch
    call: ScriptCall
    sending: Sending
    begun: float = field(default_factory=time.monotonic)

    @property
    def is_old(self) -> bool:
        """Whether the server may have forgotten by now that it was applied."""
        return time.monotonic() - self.begun > PRODUCER_WINDOW_SECONDS / 2


class UnsettledBook:
    """The batches of one store object that wait to be settled, by run. Safe between threads; a fork has none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._attempts: dict[str, list[Attempt]] = {}
        self._kept: deque[tuple[Batch, Outcome]] = deque(maxlen=_MAX_KEPT)

    def __bool__(self) -> bool:
        if (self._attempts or self._kept) and os.getpid() != self._process:
            self._attempts, self._process = {}, os.getpid()  # they are the parent's to settle
            self._kept.clear()
        return bool(self._attempts or self._kept)

    def put(self, attempts: Iterable[Attempt]) -> None:
        """Remember attempts that got no reply."""
        with self._lock:
            for attempt in attempts:
                self._attempts.setdefault(attempt.batch.run_id, []).append(attempt)

    def take(self, run_ids: Iterable[str]) -> list[Attempt]:
        """The attempts of these runs, for one caller to settle; it puts back those that get no reply again."""
        with self._lock:
            return [attempt for run_id in run_ids for attempt in self._attempts.pop(run_id, ())]

    def keep(self, batch: Batch, outcome: Outcome) -> None:
        """Keep what became of a batch for the caller that may repeat it."""
        with self._lock:
            self._kept.append((batch, outcome))

    def claim(self, batch: Batch) -> Outcome | None:
        """What became of the same batch, if it was settled in the meantime."""
        with self._lock:
            for kept in self._kept:
                sent, outcome = kept
                if _is_same(sent, batch):
                    self._kept.remove(kept)
                    # what was refused under one lease is not refused under another
                    return outcome if isinstance(outcome, Applied) or sent.grant == batch.grant else None
        return None

    def forget(self, run_id: str) -> None:
        """Give up what waits for a run."""
        with self._lock:
            self._attempts.pop(run_id, None)
            self._kept = deque((kept for kept in self._kept if kept[0].run_id != run_id), maxlen=_MAX_KEPT)


def _is_same(sent: Batch, repeated: Batch) -> bool:
    """Whether a caller has sent the same again: the same events, and the same state in the same place."""
    if sent.run_id != repeated.run_id or sent.expected_offset != repeated.expected_offset:
        return False
    if [event.record for event in sent.events] != [event.record for event in repeated.events]:
        return False
    if sent.snapshot is None or repeated.snapshot is None:
        return sent.snapshot is repeated.snapshot
    return (
        sent.snapshot.lane_id == repeated.snapshot.lane_id
        and sent.snapshot.compare == repeated.snapshot.compare
        and sent.snapshot.state.fields == repeated.snapshot.state.fields
    )
