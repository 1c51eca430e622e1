"""Runs in numbers: each is read once, in the background, and from where it was whenever it is asked for again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import aclosing
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from runstream.codec.lossless_json import dump_json
from runstream.history.summary import RunSummary
from runstream.model.erasures import Spans
from runstream.model.errors import RunstreamError
from runstream.model.results import RunInfo
from runstream.operations.follow_runs import Position
from runstream.web.access import Access
from runstream.web.problems import LOST, Refused
from runstream.web.queries import Query
from runstream.web.tagged import Tagged

__all__ = ["Summaries"]

_log = logging.getLogger("runstream.web")

_MOST_RUNS = 32
_ANSWER_SECONDS = 0.25
_UNASKED_SECONDS = 30.0
_OLD_SECONDS = 3600.0
_QUICK_SECONDS, _QUICK_OLD_SECONDS = 0.2, 60.0  # what is counted before it is to be told is counted often
_ERASURES_SECONDS = 5.0  # so often it is asked what was erased: a fork's parent does not tell it, nor all rights
_STEP = 250

Erased: TypeAlias = tuple[tuple[float, Spans, int | None, bool], ...]
"""What was asked to be erased of a run, and whether that is done everywhere."""


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
        erased = await self._erased(store, info.run_id)
        known = self._known.pop(info.run_id, None)
        if known is not None and (known.is_old or (known.created_at, known.erased) != (info.created_at, erased)):
            known.end()  # of a run that was made anew, another reader may have known the former one
            known = None
        if known is None:
            known = _Summarized(info.created_at, erased)
        self._known[info.run_id] = known
        reading = known.read(self._access, store, info, self._turns)
        while len(self._known) > _MOST_RUNS:
            self._known.popitem(last=False)[1].end()
        await asyncio.wait([reading], timeout=_ANSWER_SECONDS)
        if known.error is not None:
            error, known.error = known.error, None
            if isinstance(error, LOST) and self._known.get(info.run_id) is known:
                del self._known[info.run_id]
            raise error
        return known.document(info).response(request)

    async def _erased(self, store: Any, run_id: str) -> Erased:
        """What was erased of a run, as far as that can be told, and as it was a moment ago."""
        known = self._known.get(run_id)
        if known is not None and time.monotonic() < known.looked_at + _ERASURES_SECONDS:
            return known.erased
        try:
            erasures = await store.erasures(run_id)
        except RunstreamError:  # to look, it tries what is not done yet: a user who may only read cannot
            return () if known is None else known.erased
        if known is not None:
            known.looked_at = time.monotonic()
        return tuple((one.requested_at, one.spans, one.before, one.done) for one in erasures)


class _Summarized:
    """A run in numbers, as far as it has been read.

    Args:
        created_at: When it was created.
        erased: What was erased of it before it is read.

    Attributes:
        created_at: The same.
        erased: The same.
        looked_at: When that was asked.
        offset: How far it has been read.
        summary: The numbers.
        error: What its reading ended with.
    """

    def __init__(self, created_at: float, erased: Erased) -> None:
        self.created_at, self.erased = created_at, erased
        self.looked_at = time.monotonic()
        self.offset = 0
        self.summary = RunSummary()
        self.error: Exception | None = None
        self._document: tuple[tuple[int, int], Tagged] | None = None
        self._position: Position = 0
        self._reading: asyncio.Task[None] | None = None
        self._began_at = self._asked_at = time.monotonic()
        self._spent = 0.0

    @property
    def is_old(self) -> bool:
        """Whether it is to be read anew: some of it may have been erased since, which was not told."""
        is_quick = self._spent < _QUICK_SECONDS
        return time.monotonic() > self._began_at + (_QUICK_OLD_SECONDS if is_quick else _OLD_SECONDS)

    def document(self, info: RunInfo) -> Tagged:
        """The numbers for those who ask: however many do, they are put together once for each offset."""
        upto = self.offset, max(info.last_offset, self.offset)
        if self._document is None or self._document[0] != upto:
            facts = {"offset": upto[0], "last_offset": upto[1], "complete": upto[0] == upto[1]}
            text = dump_json({"run_id": info.run_id, **facts, **self.summary.facts()})
            self._document = upto, Tagged(text.encode(), "application/json", "private, no-cache")
        return self._document[1]

    def read(self, access: Access, store: Any, info: RunInfo, turns: asyncio.Semaphore) -> asyncio.Task[None]:
        """Read on to the end of the run, as long as it is asked for: its history is checked to be the same."""
        self._asked_at = time.monotonic()
        if self._reading is None or self._reading.done():
            self._reading = access.begin(self._read(store, info, turns))
        return self._reading

    def end(self) -> None:
        """Read no further."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, store: Any, info: RunInfo, turns: asyncio.Semaphore) -> None:
        began_at = time.monotonic()
        try:
            async with aclosing(store.read(info.run_id, self._position, on_corrupt="raw")) as items:
                while await self._take_some(items, turns):
                    if time.monotonic() > self._asked_at + _UNASKED_SECONDS:
                        return
        except RunstreamError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - events are of an application's class, which may raise anything
            _log.exception("run %r cannot be counted", info.run_id)
            self.error = Refused(500, f"event {self.offset + 1} or one soon after is none that this app can count")
            self.error.__cause__ = error
        else:
            self.offset = max(self.offset, info.last_offset)  # what was erased at its end is not given
        finally:
            self._spent += time.monotonic() - began_at

    async def _take_some(self, items: Any, turns: asyncio.Semaphore) -> bool:
        """Take the next events, in turn with other runs and after the app's other tasks; whether more may come."""
        for _ in range(_STEP):
            item = await anext(items, None)
            if item is None:
                return False
            self.summary.add(item.offset, item.event)
            self._position, self.offset = item.cursor, item.offset
        async with turns:  # not while it reads: a store that is slow to give one run holds up no other
            await asyncio.sleep(0)
        return True
