"""Runs in numbers: each is read once, in the background, and from where it was whenever it is asked for again."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.history.summary import RunSummary
from runstream.model.errors import RunstreamError
from runstream.model.results import RunInfo
from runstream.operations.follow_runs import Position
from runstream.web.access import Access
from runstream.web.problems import LOST, json_response
from runstream.web.queries import Query

__all__ = ["Summaries"]

_MOST_RUNS = 32
_ANSWER_SECONDS = 0.25
_UNASKED_SECONDS = 30.0
_OLD_SECONDS = 3600.0
_STEP = 250


class Summaries:
    """The endpoint that gives a run in numbers.

    Args:
        access: The runs, for those who may see them.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._known: OrderedDict[str, _Summarized] = OrderedDict()
        self._turns = asyncio.Semaphore(1)

    async def summary(self, request: Request) -> Response:
        """A run in numbers, by lane, time and tool: as far as it has been read, which goes on meanwhile."""
        Query(request, ())
        info = await self._access.run(request)
        store = await self._access.store()
        known = self._known.pop(info.run_id, None)
        if known is None or known.is_old:
            known = _Summarized()
        self._known[info.run_id] = known
        reading = known.read(store, info, self._turns)
        while len(self._known) > _MOST_RUNS:
            self._known.popitem(last=False)[1].end()
        await asyncio.wait([reading], timeout=_ANSWER_SECONDS)
        if known.error is not None:
            error, known.error = known.error, None
            if isinstance(error, LOST) and self._known.get(info.run_id) is known:
                del self._known[info.run_id]
            raise error
        last_offset = max(info.last_offset, known.offset)
        facts = {"offset": known.offset, "last_offset": last_offset, "complete": known.offset == last_offset}
        return json_response({"run_id": info.run_id, **facts, **known.summary.facts()})


class _Summarized:
    """A run in numbers, as far as it has been read.

    Attributes:
        offset: How far it has been read.
        summary: The numbers.
        error: What its reading ended with.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.summary = RunSummary()
        self.error: RunstreamError | None = None
        self._position: Position = 0
        self._reading: asyncio.Task[None] | None = None
        self._began_at = self._asked_at = time.monotonic()

    @property
    def is_old(self) -> bool:
        """Whether it is to be read anew: some of it may have been erased since."""
        return time.monotonic() > self._began_at + _OLD_SECONDS

    def read(self, store: Any, info: RunInfo, turns: asyncio.Semaphore) -> asyncio.Task[None]:
        """Read on to the end of the run, as long as it is asked for: its history is checked to be the same."""
        self._asked_at = time.monotonic()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(store, info, turns))
        return self._reading

    def end(self) -> None:
        """Read no further."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, store: Any, info: RunInfo, turns: asyncio.Semaphore) -> None:
        try:
            async with aclosing(store.read(info.run_id, self._position, on_corrupt="raw")) as items:
                while await self._take_some(items, turns):
                    if time.monotonic() > self._asked_at + _UNASKED_SECONDS:
                        return
        except RunstreamError as error:
            self.error = error
        else:
            self.offset = max(self.offset, info.last_offset)  # what was erased at its end is not given

    async def _take_some(self, items: Any, turns: asyncio.Semaphore) -> bool:
        """Take the next events, in turn with other runs and after the app's other tasks; whether more may come."""
        async with turns:
            await asyncio.sleep(0)
            for _ in range(_STEP):
                item = await anext(items, None)
                if item is None:
                    return False
                self.summary.add(item.offset, item.event)
                self._position, self.offset = item.cursor, item.offset
        return True
