"""The cursors and the server's time that a store object saw last."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict

from runstream.operations.forks import starts_anew
from runstream.stores.redis.append_batch import Seen
from runstream.stores.redis.session.packed_cursors import PackedCursors

__all__ = ["SeenBook", "ServerClock"]

_log = logging.getLogger("runstream.redis")

_MAX_SEEN = 16_384
_MAX_OLDER = 1_000_000


class SeenBook:
    """The last cursor that this store object saw of each run: by it, a later loss of events is noticed.

    Those that were not updated for the longest time are kept in a packed form. The number of runs is bounded all
    the same: where one is dropped, a warning says so, once.

    A reply may come late, after those of later appends, and an append that was made before the reply to another
    one came may be applied after it. Unless the later one follows without a gap, or has proven the other, nobody
    knows whether the server has both still: a failover may lie in between. Then the next appends prove them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._unsure: dict[str, list[Seen]] = {}
        self._older = PackedCursors(_MAX_OLDER)
        self._has_older = False
        self._has_warned = False
        starts_anew(self)

    def _start_anew(self) -> None:
        """Go on with what the parent saw: of each run it was noted in one step."""
        self._lock = threading.Lock()

    def get(self, run_id: str) -> Seen | None:
        """The cursor that was seen last of a run, or None."""
        seen = self._seen.get(run_id)
        if seen is not None or not self._has_older:
            return seen
        with self._lock:
            return self._seen.get(run_id) or self._older.get(run_id)

    def to_prove(self, run_id: str) -> Seen | None:
        """The cursor that the next append is to prove: one that may be lost, or the last one; None for none."""
        if self._unsure:
            with self._lock:
                if unsure := self._unsure.get(run_id):
                    unsure.append(unsure.pop(0))  # appends that are under way at once prove one each
                    return unsure[-1]
        return self.get(run_id)

    def note(
        self,
        run_id: str,
        start: bytes,
        last: bytes,
        offset: int,
        lane_id: str | None = None,
        seq: int = 0,
        former: bytes = b"",
        proven: Seen | None = None,
        behind: Seen | None = None,
    ) -> None:
        """Note a cursor that was seen; within one history, only one that is further on.

        Args:
            run_id: The run.
            start: The cursor at the history's start.
            last: The cursor that was seen.
            offset: That cursor's offset.
            lane_id: The lane of the event there, if it is this store's own; None: somebody's.
            seq: Its seq, if it is this store's own.
            former: Where the run ended before, if this store has appended what is between; b"": it has not.
            proven: What the server has just found to be of the run's history.
            behind: What it had found so when it appended what is between, now or before.
        """
        with self._lock:
            known = self._seen.get(run_id)
            is_new = known is None
            if is_new and self._has_older:
                known = self._older.get(run_id)
            if self._unsure and proven is not None:
                self._note_proven(run_id, proven, former, known)
            if known is not None and known.start == start and known.offset >= offset:
                if former and last != known.last:
                    self._note_late(run_id, Seen(start, last, offset, since=former), known)
                return
            since = known.since if known is not None and known.last == former else former
            if lane_id is not None:
                self._seen[run_id] = Seen(start, last, offset, lane_id, offset, seq, since)
            elif known is not None and known.start == start:
                self._seen[run_id] = known._replace(last=last, offset=offset, since=since)
            else:
                self._seen[run_id] = Seen(start, last, offset)
            if former and known is not None and not _follows(known, start, former, behind):
                self._note_apart(run_id, known)
            self._seen.move_to_end(run_id)
            if is_new and len(self._seen) > _MAX_SEEN:
                self._pack_oldest()

    def forget(self, run_id: str) -> None:
        """Forget a run: the next call takes it as it is then."""
        with self._lock:
            self._seen.pop(run_id, None)
            self._unsure.pop(run_id, None)
            self._older.forget(run_id)

    def _note_late(self, run_id: str, late: Seen, known: Seen) -> None:
        """Note the cursor of an append whose reply has come after that of a later one."""
        unsure = self._unsure.get(run_id, [])
        if late not in unsure:
            unsure.append(late)
        while (before := next((one for one in unsure if one.last == known.since), None)) is not None:
            unsure.remove(before)  # what was written after it follows it without a gap
            known = self._seen[run_id] = known._replace(since=before.since)
        self._keep_unsure(run_id, unsure)

    def _note_apart(self, run_id: str, known: Seen) -> None:
        """Note that the last cursor, that of an append, may be of another history than the one known before."""
        unsure = self._unsure.get(run_id) or [self._seen[run_id]]
        if known not in unsure:
            unsure.append(known)
        self._keep_unsure(run_id, unsure)

    def _note_proven(self, run_id: str, proven: Seen, former: bytes, known: Seen | None) -> None:
        """Note that an append has proven a cursor; where that came late, the last one is not proven by it."""
        unsure = self._unsure.get(run_id)
        if unsure is None or proven not in unsure:
            return
        unsure.remove(proven)
        if known is not None and known.last not in (former, proven.last):
            unsure.append(known)
        self._keep_unsure(run_id, unsure)

    def _keep_unsure(self, run_id: str, unsure: list[Seen]) -> None:
        if unsure:
            self._unsure[run_id] = unsure
        else:
            self._unsure.pop(run_id, None)
        if len(self._unsure) > _MAX_SEEN:
            del self._unsure[next(iter(self._unsure))]

    def _pack_oldest(self) -> None:
        self._has_older = True
        run_id, seen = next(iter(self._seen.items()))
        if self._older.put(run_id, seen) and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "a store object has seen more than %d runs: it forgets the cursors of the oldest, and would not"
                " notice if the server lost acknowledged events of theirs; close it, and open another",
                _MAX_SEEN + _MAX_OLDER,
            )
        del self._seen[run_id]


def _follows(known: Seen, start: bytes, former: bytes, behind: Seen | None) -> bool:
    """Whether what was appended after ``former`` is known to follow what this store object knew."""
    return known.start != start or known.last in (former, b"" if behind is None else behind.last)


class ServerClock:
    """The server's time in microseconds, from its replies: behind by no more than a round trip, and not ahead."""

    def __init__(self) -> None:
        self._ahead: int | None = None
        self._second: bytes | None = None

    def now(self) -> int | None:
        """The server's time by this process's clock, or None before the first reply that has it."""
        return None if self._ahead is None else self._ahead + _microseconds()

    def update(self, server_time: bytes, *, reset: bool = False) -> None:
        """Update the clock offset from a server timestamp; later timestamps within the same second are ignored.

        Args:
            server_time: The timestamp in microseconds, as text.
            reset: Take it within the same second, too.
        """
        second = server_time[:-6]
        if second == self._second and not reset:
            return
        self._second = second
        self._ahead = int(server_time) - _microseconds()


def _microseconds() -> int:
    """A clock of this process that nobody sets; where there is such a one, it goes on while the machine sleeps."""
    boot_time: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if boot_time is None else time.clock_gettime_ns(boot_time)) // 1000
