"""The runs that wait for an answer: of all runs looked through once in a while, and kept up with what is updated.

Who waits is quiet, and so lies behind all that was updated since: to find it each time anew costs as much as there
are runs. Whoever begins to wait, or has got an answer, has been updated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from runstream.model.results import RunInfo
from runstream.operations.arguments import RunsQuery
from runstream.operations.filters import arranged

__all__ = ["WaitingRuns"]

_MOST = 10_000
_WHOLE_SECONDS = 30.0
"""How often all are looked through: a server's clock may have been set back, and a run put back as it was."""

_SLACK_SECONDS = 5.0
"""How far the times of updates may lie apart on the servers of a cluster."""

_AT_ONCE = 50


class WaitingRuns:
    """Those that wait, of the 10,000 that were updated last."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting: dict[str, RunInfo] = {}
        self._latest: float | None = None  # by the store's clock; None: all are to be looked through
        self._is_all = True
        self._whole_at = 0.0

    async def of(self, store: Any, query: RunsQuery) -> AsyncGenerator[RunInfo | None, None]:
        """Those that match, the most recently updated first, as they are now; None last: there may be others."""
        query.check()
        async with self._turn:
            await self._look(store)
            known, is_all = arranged(self._waiting.values(), query), self._is_all
        for first in range(0, len(known), _AT_ONCE):
            # one or the other may be deleted, which is no update
            asked = (store.run_info(info.run_id) for info in known[first : first + _AT_ONCE])
            for info in await asyncio.gather(*asked):
                if info is not None and info.waiting_for:
                    yield info
        if not is_all:
            yield None

    async def _look(self, store: Any) -> None:
        """Look at the runs that were updated since the last look, or at all."""
        now = time.monotonic()
        is_whole = self._latest is None or now >= self._whole_at
        since = None if is_whole or self._latest is None else self._latest - _SLACK_SECONDS
        found: dict[str, RunInfo] = {} if is_whole else self._waiting
        latest, left, is_cut = self._latest, _MOST, False
        async with aclosing(store.runs(updated_after=since)) as infos:
            async for info in infos:
                if is_cut := left == 0:
                    break
                left -= 1
                latest = info.updated_at if latest is None else max(latest, info.updated_at)
                found.pop(info.run_id, None)
                if info.waiting_for:
                    found[info.run_id] = info
        if is_whole:
            self._waiting, self._whole_at = found, now + _WHOLE_SECONDS
        self._is_all = not is_cut and (is_whole or self._is_all)
        self._latest = latest if is_whole or not is_cut else None
