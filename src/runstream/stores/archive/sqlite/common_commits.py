"""Appends of several threads in one transaction: a commit waits for the disk, and others come meanwhile.

One thread at a time leads: it commits for all that wait, and then one of those leads that have come since. The
others only wait until theirs is done.
"""

from __future__ import annotations

import copy
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.operations.forks import starts_anew
from runstream.stores.archive.sqlite.connection import ArchiveFile
from runstream.stores.archive.sqlite.write_batch import WriteBatch
from runstream.stores.local.append_plan import AppendPlan, AppendRequest

__all__ = ["CommonCommits"]


class _Waiting:
    """An append that waits to be committed.

    Attributes:
        request: What to append.
        plan: What was written; None: nothing yet.
        error: Why it is not, or may not be; None: there is none.
        leads: Whether its thread is the one that commits.
        turn: Free once it is done, or leads.
    """

    __slots__ = ("error", "leads", "plan", "request", "turn")

    def __init__(self, request: AppendRequest) -> None:
        self.request = request
        self.plan: AppendPlan | None = None
        self.error: Exception | None = None
        self.leads = False
        self.turn = threading.Lock()
        self.turn.acquire()


class CommonCommits:
    """Commits appends to one file, those of several threads together.

    Args:
        file: The file.
    """

    def __init__(self, file: ArchiveFile) -> None:
        self._file = file
        self._start_anew()
        starts_anew(self)

    def _start_anew(self) -> None:
        # in a forked child: what the parent's threads append is theirs
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._is_led = False

    def append(self, request: AppendRequest, begin: Callable[[sqlite3.Connection], WriteBatch]) -> AppendPlan:
        """Append to one run: it is durable when this returns.

        Args:
            request: What to append.
            begin: Begins what a transaction adds.

        Raises:
            RunstreamError: Nothing of it was written, but for StoreUnavailable, after which that is not known.
        """
        mine = _Waiting(request)
        try:
            with self._lock:
                self._waiting.append(mine)
                if not self._is_led:
                    mine.leads = self._is_led = True  # in this order: an interrupt in between is looked after, too
            if not mine.leads:
                mine.turn.acquire()
            if mine.leads:
                self._commit(begin)
        finally:
            self._leave(mine)
        if mine.plan is None:
            raise mine.error or _left(self._file)
        return mine.plan

    def _leave(self, mine: _Waiting) -> None:
        """Let the next one lead, if this one has."""
        with self._lock:
            with suppress(ValueError):  # an interrupt: it waits no more
                self._waiting.remove(mine)
            if not mine.leads:
                return
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].turn.release()
            else:
                self._is_led = False

    def _commit(self, begin: Callable[[sqlite3.Connection], WriteBatch]) -> None:
        """Commit for those who wait."""
        chosen = self._chosen()
        plans: list[tuple[_Waiting, AppendPlan]] = []
        try:
            with self._file.write() as connection:
                batch = begin(connection)
                for one in chosen:
                    try:
                        planned = batch.plan(one.request)
                    except RunstreamError as error:
                        one.error = error  # refused: the others are none the worse
                    else:
                        plans.append((one, batch.add_planned(planned)))
                batch.insert()
            for one, plan in plans:
                one.plan = plan
        except BaseException as error:
            if isinstance(error, RunstreamError):
                for one in chosen:
                    one.error = one.error or copy.copy(error)  # each thread raises one of its own
            raise
        finally:
            for one in chosen:
                if not one.leads:
                    one.turn.release()

    def _chosen(self) -> list[_Waiting]:
        """Take those who wait, of each run the first: what comes next is planned on what is written."""
        chosen: dict[str, _Waiting] = {}
        others: deque[_Waiting] = deque()
        with self._lock:
            for one in self._waiting:
                if chosen.setdefault(one.request.run_id, one) is not one:
                    others.append(one)
            self._waiting = others
        return list(chosen.values())


def _left(file: ArchiveFile) -> StoreUnavailable:
    """The error of one for whom another thread has committed, and was interrupted, say."""
    return StoreUnavailable(f"the archive {file.path} was left in the middle of a commit; send the same again")
