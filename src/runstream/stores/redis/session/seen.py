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
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, Seen] = OrderedDict()
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

    def note(
        self, run_id: str, start: bytes, last: bytes, offset: int, lane_id: str | None = None, seq: int = 0
    ) -> None:
        """Note a cursor that was seen; within one history, only one that is further on.

        Args:
            run_id: The run.
            start: The cursor at the history's start.
            last: The cursor that was seen.
            offset: That cursor's offset.
            lane_id: The lane of the event there, if it is this store's own; None: somebody's.
            seq: Its seq, if it is this store's own.
        """
        with self._lock:
            known = self._seen.get(run_id)
            is_new = known is None
            if is_new and self._has_older:
                known = self._older.get(run_id)
            if known is not None and known.start == start and known.offset >= offset:
                return
            if lane_id is not None:
                self._seen[run_id] = Seen(start, last, offset, lane_id, offset, seq)
            elif known is not None and known.start == start:
                self._seen[run_id] = known._replace(last=last, offset=offset)
            else:
                self._seen[run_id] = Seen(start, last, offset)
            self._seen.move_to_end(run_id)
            if is_new and len(self._seen) > _MAX_SEEN:
                self._pack_oldest()

    def forget(self, run_id: str) -> None:
        """Forget a run: the next call takes it as it is then."""
        with self._lock:
            self._seen.pop(run_id, None)
            self._older.forget(run_id)

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
