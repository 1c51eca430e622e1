"""The stream of one run: its history, then what comes, until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.codec.json_facts import event_facts
from runstream.model.errors import StoreUnavailable
from runstream.model.results import Recorded, RunInfo
from runstream.model.state import ENDED_STATUSES
from runstream.operations.filters import EventFilter
from runstream.operations.follow_runs import Position
from runstream.web.access import Access
from runstream.web.frames import KEEP_ALIVE_SECONDS, StreamLimit, frame
from runstream.web.happenings import Failed, Given, Happening, Lost, Unreadable, all_given, happenings
from runstream.web.problems import document
from runstream.web.queries import Parameter, Query, position_in
from runstream.web.reading import FILTERS, filter_of

__all__ = ["STREAM", "RunStream", "last_event_id", "told"]

STREAM = (
    Parameter("after", "Begin after this offset or cursor; a Last-Event-ID comes first."),
    *FILTERS,
)

_AWAY_SECONDS = 1.0
_UNSENT = 1000  # after so many events in a row that are not wanted, the position alone is sent


def last_event_id(request: Request) -> str | None:
    """What a browser that reconnects had last; None for nothing."""
    return request.headers.get("last-event-id") or None


class RunStream:
    """The endpoint that streams a run.

    Args:
        access: The runs, for those who may see them.
        limit: How many streams there may be.
    """

    def __init__(self, access: Access, limit: StreamLimit) -> None:
        self._access = access
        self._limit = limit

    async def stream(self, request: Request) -> Response:
        """The stream; 204, which ends a browser's reconnecting, where the run has ended and all was given."""
        query = Query(request, STREAM)
        header = last_event_id(request)
        after = position_in(header, "Last-Event-ID:") if header else query.position("after") or 0
        info = await self._access.run(request)
        self._limit.check()
        if header and await all_given(await self._access.store(), info, after):
            return Response(status_code=204)
        stream = _Stream(self._access, request, info.run_id, after, filter_of(query))
        return self._limit.response(stream.frames(), is_head=request.method == "HEAD")


class _Stream:
    """The stream of one run to one reader.

    Args:
        access: The runs.
        request: Who reads.
        run_id: The run.
        after: Where to begin.
        wanted: Which events are given.
    """

    def __init__(
        self, access: Access, request: Request, run_id: str, after: Position, wanted: EventFilter
    ) -> None:
        self._access, self._request = access, request
        self._run_id, self._wanted = run_id, wanted
        self._positions: dict[str, Position] = {run_id: after}
        self._is_over = False

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The server-sent events, until the run has ended, or it cannot go on."""
        while not self._is_over:
            try:
                info = await self._access.readable(self._request, self._run_id)
            except StoreUnavailable:
                yield frame()
                await asyncio.sleep(_AWAY_SECONDS)
                continue
            if info is None:  # it was deleted meanwhile
                yield frame(
                    {"run_id": self._run_id, "status": "deleted", "last_offset": 0}, name="end", position=""
                )
                return
            async with aclosing(self._part(info)) as part:
                async for one in part:
                    yield one

    @property
    def _position(self) -> str:
        return str(self._positions[self._run_id] or "")

    async def _part(self, info: RunInfo) -> AsyncGenerator[bytes, None]:
        """What is read until its end, or followed until the run has ended or its history is another one."""
        store = await self._access.store()
        has_ended = info.status in ENDED_STATUSES

        async def begin() -> AsyncGenerator[tuple[str, Recorded[Any]], None]:
            read = store.read if has_ended else store.follow  # an archive has no live end
            async with aclosing(read(self._run_id, self._positions[self._run_id])) as items:
                async for item in items:
                    yield self._run_id, item

        unsent = 0
        async with aclosing(happenings(store, self._positions, begin, KEEP_ALIVE_SECONDS)) as here:
            async for happening in here:
                if isinstance(happening, Given) and not self._wanted(happening.item.event):
                    unsent += 1
                    if unsent % _UNSENT == 0:
                        yield frame(position=self._position)
                    continue
                yield told(happening, self._position)
                self._is_over = isinstance(happening, Failed)
                if isinstance(happening, Lost):
                    return  # whoever has made the run anew may have made it for others
        if has_ended and not self._is_over:
            facts = {"run_id": info.run_id, "status": info.status, "last_offset": info.last_offset}
            yield frame(facts, name="end", position=self._position)
            self._is_over = True


def told(happening: Happening, position: str) -> bytes:
    """The server-sent event that tells what happens.

    Args:
        happening: What happens.
        position: Where a browser goes on that had this last.
    """
    if isinstance(happening, Given):
        return frame(event_facts(happening.item), position=position)
    if isinstance(happening, Unreadable):
        facts = {"run_id": happening.run_id, "offset": happening.offset, "problem": type(happening.error).__name__}
        return frame(facts, name="unreadable", position=position)
    if isinstance(happening, Lost):
        return frame({"run_id": happening.run_id, **document(happening.error)}, name="lost", position=position)
    if isinstance(happening, Failed):
        return frame(document(happening.error), name="problem")
    return frame(position=position)
