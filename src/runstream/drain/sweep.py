"""The sweep: a share of a worker's idle time goes into runs that nothing else brings up.

It finds runs that miss from the sets they must be in, what is archived and in Redis still though the worker
would trim it: another one, or this one before it was started anew, had another ``trim``; and what an archive has
erased and Redis has still, since a failover has lost the request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

from runstream.drain.claimed_run import until_mended
from runstream.drain.lost_erasures import ask_for_lost
from runstream.drain.parts import WorkerParts
from runstream.drain.stats import REDIS
from runstream.model.errors import CorruptRecordError, HistoryDiverged, StoreUnavailable
from runstream.model.identifiers import random_token
from runstream.model.results import DrainReport
from runstream.stores.redis.operations.worker.held import Held
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.sweep import BEGINNING

__all__ = ["Sweep"]

_log = logging.getLogger("runstream.drain")

_SHARE = 0.1
"""How much of its idle time a worker sweeps."""
_SECONDS_BETWEEN_SWEEPS = 60.0
_SECONDS_AT_ONCE = 1.0
_MOST_FAILURES = 2
"""How often an archive may fail in a page before no more is asked of it there."""


class Sweep:
    """Sweeps one worker's partitions, page by page.

    Args:
        parts: The worker's parts.
        visit: Drains runs, whether they are due or not, until the event is set.
    """

    def __init__(self, parts: WorkerParts, visit: Callable[[Sequence[str], threading.Event], None]) -> None:
        self._parts = parts
        self._visit = visit
        self._name = random_token()
        self._position = BEGINNING
        self._next_page = 0.0
        self._held: Counter[str] = Counter()

    def some(self, stop: threading.Event) -> None:
        """Sweep one page, if it is time for one."""
        began = time.monotonic()
        if began < self._next_page:
            return
        self._page(stop)
        now = time.monotonic()
        pause = _SECONDS_BETWEEN_SWEEPS if self._position == BEGINNING else (now - began) * (1 / _SHARE - 1)
        self._next_page = now + pause

    def at_once(self, stop: threading.Event) -> bool:
        """Sweep all, or as much as can be swept in a second or before ``stop`` is set; not twice within a minute.

        Returns:
            Whether a run was found that may be due now.
        """
        found, began = False, time.monotonic()
        while began >= self._next_page and not stop.is_set():
            found |= self._page(stop)
            now = time.monotonic()
            if self._position == BEGINNING:
                self._next_page = now + _SECONDS_BETWEEN_SWEEPS
            elif now > began + _SECONDS_AT_ONCE:
                break
        return found

    def _page(self, stop: threading.Event) -> bool:
        if self._position == BEGINNING:
            self._parts.namespace.set_aside_foreign_keys(self._parts.partitions)
            self._parts.namespace.enlist(self._parts.archives, self._parts.partitions)
        page = self._parts.namespace.sweep_page(
            self._position, self._parts.partitions, finds_idle=self._parts.retires_idle, sweep=self._name
        )
        self._position = page.position
        if page.idle:  # they come due, and settling lists them
            self._parts.namespace.make_due(page.idle)
        for run_id in page.relisted:
            _log.error(
                "run %r was not in the sets of its partition that it belongs to, as if somebody had removed it"
                " there, and is now",
                run_id,
                extra={"run": run_id},
            )
        for error in page.damaged:
            self._parts.park(error.run_id, until_mended(str(error), error.run_id), error=error)
            self._parts.namespace.put_off(error.run_id, self._parts.park_seconds)
        self._parts.note(DrainReport(parked=len(page.damaged)))
        self._trim(page.held, stop)
        lost = self._ask_for_lost(page.settled)
        if self._position == BEGINNING:
            self._parts.stats.held, self._held = dict(self._held), Counter()
        return bool(page.relisted or page.idle or lost)

    def _ask_for_lost(self, page: Sequence[HotRun]) -> bool:
        """Ask in Redis for what archives have erased of runs, and it has lost. Whether it had lost any of it."""
        parts, has_lost = self._parts, False
        failed: Counter[str] = Counter()
        for run, sink in product(page, parts.sinks):
            if failed[sink.location] == _MOST_FAILURES:
                continue  # it is the archive, not these runs: they are looked at in the next sweep
            try:
                why = ask_for_lost(parts, sink, run)
            except (CorruptRecordError, HistoryDiverged):  # whoever drains it says so
                continue
            except StoreUnavailable as error:
                if parts.outages.backend_of(error) == REDIS:
                    raise
                failed[sink.location] += 1
                continue
            if why and not parts.namespace.is_due(run.run_id):  # it is parked when it is drained
                parts.namespace.make_due([run.run_id])
            has_lost |= why is not None
        return has_lost

    def _trim(self, page: Sequence[Held], stop: threading.Event) -> None:
        """Visit the runs of which something is to leave Redis by now, and count the others, by what holds them."""
        to_leave = {held.run_id for held in page if held.trimmable(self._parts.trim) and not held.is_due}
        if to_leave:
            self._visit(sorted(to_leave), stop)
        for held in page:
            if held.run_id not in to_leave:
                self._held[held.by] += held.events
