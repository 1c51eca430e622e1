"""The stream of many runs: of a session, or those that have a tag; new ones join."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from runstream.model.errors import StoreUnavailable
from runstream.model.events import TERMINAL_KINDS
from runstream.model.results import Recorded
from runstream.operations.filters import EventFilter, field_of, text_of
from runstream.web.access import Access
from runstream.web.followed import FollowedRuns
from runstream.web.frames import KEEP_ALIVE_SECONDS, StreamLimit, frame, patiently
from runstream.web.happenings import Failed, Given, Happening, Lost, Quiet, Unreadable, happenings
from runstream.web.problems import Refused, document
from runstream.web.queries import Parameter, Query
from runstream.web.reading import FILTERS, filter_of
from runstream.web.run_stream import last_event_id, told
from runstream.web.tokens import Token

__all__ = ["MANY", "ManyStream"]

MANY = (
    Parameter("session", "Only the runs of this session."),
    Parameter("tag", "Only the runs with this tag, NAME=VALUE; each that is given.", is_many=True),
    Parameter("after", "Begin after the position that was the id of an event; a Last-Event-ID comes first."),
    *FILTERS,
)

_LOOK_SECONDS = 0.5
_WHOLE_CHECK_SECONDS = 30.0


class ManyStream:
    """The endpoint that streams many runs.

    Args:
        access: The runs, for those who may see them.
        limit: How many streams there may be.
    """

    def __init__(self, access: Access, limit: StreamLimit) -> None:
        self._access = access
        self._limit = limit

    async def stream_runs(self, request: Request) -> Response:
        """The stream of many runs: those that are open, each from its beginning, and those that begin later."""
        query = Query(request, MANY)
        wanted = filter_of(query)
        text = last_event_id(request) or query.text("after")
        self._limit.check()
        asked = {"session_id": query.text("session"), "tags": query.tags()}
        runs = FollowedRuns(self._access, request, asked, Token.parse(text) if text else None)
        await runs.look()  # before it begins, so that too many are told by a status
        stream = _Stream(await self._access.store(), runs, wanted)
        return self._limit.response(stream.frames(), is_head=request.method == "HEAD")


class _Stream:
    """The stream of many runs to one reader.

    Args:
        store: The store.
        runs: The runs.
        wanted: Which events are given.
    """

    def __init__(self, store: Any, runs: FollowedRuns, wanted: EventFilter) -> None:
        self._store, self._runs, self._wanted = store, runs, wanted
        self._to_check: set[str] = set()
        self._look_at = self._check_at = self._sent_at = 0.0
        self._begins_anew = self._is_over = False

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The server-sent events, without end."""
        self._sent_at = self._check_at = time.monotonic()
        self._look_at = self._sent_at + _LOOK_SECONDS  # it has just been looked
        yield frame(position=self._runs.token)
        while not self._is_over:
            try:
                async with aclosing(self._part()) as part:
                    async for one in part:
                        self._sent_at = time.monotonic()
                        yield one
            except StoreUnavailable:  # as it looked for runs; it does so again
                yield frame()
                await asyncio.sleep(_LOOK_SECONDS)
            except (Refused, HTTPException) as error:  # too many have come; what authorized it has run out
                yield frame(document(error), name="problem")
                return

    async def _part(self) -> AsyncGenerator[bytes, None]:
        """What comes in the runs that are held, until others come too, or all of them have ended."""
        self._begins_anew = False
        async with aclosing(happenings(self._store, self._runs.positions, self._begin)) as here:
            async for happening in here:
                for one in self._tell(happening):
                    yield one
                if self._is_over:
                    return
                if time.monotonic() >= self._look_at:
                    async for one in self._look():
                        yield one
                if self._begins_anew:
                    return
        async for one in self._look():
            yield one
        if not self._runs.open_ids:
            await asyncio.sleep(_LOOK_SECONDS)

    def _begin(self) -> AsyncGenerator[tuple[str, Recorded[Any]] | None, None]:
        return patiently(self._follow(), _LOOK_SECONDS)

    async def _follow(self) -> AsyncGenerator[tuple[str, Recorded[Any]], None]:
        """The events of the runs that are held, until all of them have ended."""
        after = {run_id: self._runs.positions[run_id] for run_id in self._runs.open_ids}
        async with aclosing(self._store.follow_runs(list(after), after=after)) as pairs:
            async for pair in pairs:
                yield pair
        self._to_check.update(after)

    def _tell(self, happening: Happening) -> list[bytes]:
        if isinstance(happening, Quiet):
            return []
        if isinstance(happening, Given):
            event = happening.item.event
            if text_of(field_of(event, "kind")) in TERMINAL_KINDS:
                self._to_check.add(happening.run_id)
            if not self._wanted(event):
                return []
        if isinstance(happening, Lost):  # it may be another run by now, and not for this reader
            self._to_check.add(happening.run_id)
            self._look_at, self._begins_anew = 0.0, True
        if isinstance(happening, Failed) and happening.run_id is not None:
            self._runs.leave_out(happening.run_id)
            self._begins_anew = True
            happening = Unreadable(happening.run_id, 0, happening.error)
        self._is_over = isinstance(happening, Failed)
        return [told(happening, self._runs.token)]

    async def _look(self) -> AsyncGenerator[bytes, None]:
        """Look for runs that have come and that have ended; tells of those, and that the stream lives."""
        now = time.monotonic()
        if now >= self._check_at:
            self._to_check.update(self._runs.open_ids)
            self._check_at = now + _WHOLE_CHECK_SECONDS
        to_check, self._to_check = self._to_check, set()
        for info in await self._runs.check(to_check.intersection(self._runs.open_ids)):
            facts = {"run_id": info.run_id, "status": info.status, "last_offset": info.last_offset}
            yield frame(facts, name="end", position=self._runs.token)
        self._begins_anew |= await self._runs.look()
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if now >= self._sent_at + KEEP_ALIVE_SECONDS:
            yield frame(position=self._runs.token)
