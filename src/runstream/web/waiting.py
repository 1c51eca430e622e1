"""The runs that wait for an answer: of all runs looked through once in a while, and kept up with what is updated.

Who waits is quiet, and so lies behind all that was updated since: to find it each time anew costs as much as there
are runs. Whoever begins to wait, or has got an answer, has been updated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from runstream.model.results import RunInfo
from runstream.operations.arguments import RunsQuery
from runstream.operations.filters import arranged
from runstream.operations.follow_runs import Updates

__all__ = ["WaitingRuns"]

_MOST = 10_000
_WHOLE_SECONDS = 30.0
"""How often all are looked through: a server's clock may have been set back, and a run put back as it was."""

_AT_ONCE = 50


class WaitingRuns:
    """Those that wait, of the 10,000 that were updated last."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting: dict[str, RunInfo] = {}
        self._updates = Updates(whole_seconds=_WHOLE_SECONDS)
        self._is_all = True

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
        since = self._updates.since()
        found: dict[str, RunInfo] = {} if since is None else self._waiting
        updated, is_cut = list[float](), False
        async with aclosing(store.runs(updated_after=since)) as infos:
            async for info in infos:
                if is_cut := len(updated) == _MOST:
                    break
                updated.append(info.updated_at)
                found.pop(info.run_id, None)
                if info.waiting_for:
                    found[info.run_id] = info
        self._updates.note(updated)
        if since is None:
            self._waiting, self._is_all = found, not is_cut
        elif is_cut:
            self._is_all = False
            self._updates.begin_anew()
