"""The stream of one run: its history, then what comes, until it has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from importlib import import_module
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from runstream.codec.json_facts import event_facts
from runstream.model.errors import StoreUnavailable
from runstream.model.results import Recorded, RunInfo
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import parse_position
from runstream.operations.filters import EventFilter
from runstream.operations.follow_runs import Position
from runstream.web.access import Access
from runstream.web.frames import KEEP_ALIVE_SECONDS, StreamLimit, frame
from runstream.web.happenings import Failed, Given, Happening, Lost, Unreadable, all_given, happenings
from runstream.web.problems import Refused, document
from runstream.web.queries import Parameter, Query, position_in
from runstream.web.reading import FILTERS, READABLE, filter_of, shown_facts
from runstream.web.tails import Framed, Tails

__all__ = ["STREAM", "RunStream", "last_event_id", "told"]

STREAM = (
    Parameter("format", "ag-ui: as AG-UI events; an Accept with their media type asks for it, too."),
    Parameter("after", "Begin after this offset or cursor; a Last-Event-ID comes first."),
    *FILTERS,
    READABLE,
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
        self._tails = Tails()

    async def stream(self, request: Request) -> Response:
        """The stream; 204, which ends a browser's reconnecting, where the run has ended and all was given."""
        query = Query(request, STREAM)
        header, _, sent = (last_event_id(request) or "").partition("+")
        after = position_in(header, "Last-Event-ID:") if header else query.position("after") or 0
        info = await self._access.run(request)
        self._limit.check()
        if header and await all_given(await self._access.store(), info, after):
            return Response(status_code=204)
        encoding = _encoding(request, query, info, str(after or ""), sent)
        stream = _Stream(self._access, self._tails, request, info.run_id, after, filter_of(query), encoding)
        return self._limit.response(stream.frames(), is_head=request.method == "HEAD")


class _Stream:
    """The stream of one run to one reader.

    Args:
        access: The runs.
        tails: What comes in them.
        request: Who reads.
        run_id: The run.
        after: Where to begin.
        wanted: Which events are given.
        encoding: Makes the frames.
    """

    def __init__(
        self,
        access: Access,
        tails: Tails,
        request: Request,
        run_id: str,
        after: Position,
        wanted: EventFilter,
        encoding: _Encoding,
    ) -> None:
        self._access, self._tails, self._request = access, tails, request
        self._run_id, self._wanted = run_id, wanted
        self._positions: dict[str, Position] = {run_id: after}
        self._encoding, self._is_noted = encoding, after == 0 or not encoding.needs_history
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
            except HTTPException as error:  # what authorized it has run out
                yield frame(document(error), name="problem")
                return
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

    async def _note(self, store: Any) -> None:
        """Let the encoding know what was sent before: what comes next depends on it."""
        position = self._positions[self._run_id]
        if not self._is_noted:
            before = parse_position(position)[0] + 1
            async with aclosing(store.read(self._run_id, before=before, on_corrupt="skip")) as items:
                async for item in items:
                    if self._wanted(item.event):
                        self._encoding.note(Given(self._run_id, item))
            self._is_noted = True

    async def _part(self, info: RunInfo) -> AsyncGenerator[bytes, None]:
        """What is read until its end, or followed until the run has ended or its history is another one."""
        store = await self._access.store()
        has_ended = info.status in ENDED_STATUSES

        async def begin() -> AsyncGenerator[tuple[str, Recorded[Any]] | None, None]:
            follow = self._tails.read if has_ended else self._tails.follow
            position = self._positions[self._run_id]
            async with aclosing(follow(store, self._run_id, position, KEEP_ALIVE_SECONDS)) as items:
                async for item in items:
                    yield None if item is None else (self._run_id, item)

        await self._note(store)
        unsent, sent_at = 0, time.monotonic()
        async with aclosing(happenings(store, self._positions, begin)) as here:
            async for happening in here:
                if isinstance(happening, Given) and not self._wanted(happening.item.event):
                    unsent += 1
                    if unsent == _UNSENT or time.monotonic() > sent_at + KEEP_ALIVE_SECONDS:
                        yield frame(position=self._position)
                        unsent, sent_at = 0, time.monotonic()
                    continue
                unsent, sent_at = 0, time.monotonic()
                for one in self._encoding.tell(happening, self._position):
                    yield one
                is_lost = isinstance(happening, Lost)
                self._is_over = isinstance(happening, Failed) or (is_lost and self._encoding.needs_history)
                if is_lost:
                    return  # whoever has made the run anew may have made it for others
        if has_ended and not self._is_over:
            for one in self._encoding.end(info, self._position):
                yield one
            self._is_over = True


class _Encoding(Protocol):
    """Makes the frames of a stream."""

    needs_history: bool
    """Whether what it says depends on what came before, so that nothing may come after a loss."""

    def note(self, given: Given) -> None:
        """Note what was sent before the stream begins."""

    def tell(self, happening: Happening, position: str) -> Iterable[bytes]:
        """The frames that tell what happens."""

    def end(self, info: RunInfo, position: str) -> Iterable[bytes]:
        """The frames that tell that the run has ended."""


class _Plain:
    """Each event as it is: :func:`told`.

    Args:
        is_readable: Whether it is given as people read it, where that is something else.
    """

    needs_history = False

    def __init__(self, *, is_readable: bool) -> None:
        self._is_readable = is_readable

    def note(self, given: Given) -> None:
        """It says the same after whatever came before."""

    def tell(self, happening: Happening, position: str) -> Iterable[bytes]:
        """The frame that tells what happens."""
        if self._is_readable and isinstance(happening, Given):
            item = happening.item
            return (item.readable if isinstance(item, Framed) else frame(shown_facts(item), position=position),)
        return (told(happening, position),)

    def end(self, info: RunInfo, position: str) -> Iterable[bytes]:
        """The frame that tells the end."""
        return (_end_frame(info.run_id, info.status, info.last_offset, position),)


def _encoding(request: Request, query: Query, info: RunInfo, position: str, sent: str) -> _Encoding:
    """What the reader has asked for."""
    asked = "ag-ui" if "vnd.ag-ui" in request.headers.get("accept", "") else "runstream"
    if query.choice("format", (asked, "ag-ui", "runstream")) != "ag-ui":
        if sent:
            raise Refused(400, "that is a position of another format")
        return _Plain(is_readable=query.is_on(READABLE))
    if not (sent == "" or (sent.isascii() and sent.isdecimal() and len(sent) < 4)):
        raise Refused(400, "Last-Event-ID: that is no position of an AG-UI stream")
    try:
        encoding: Any = import_module("runstream.web.agui_stream").AgUiEncoding
    except ImportError as error:
        raise Refused(501, "this server lacks ag-ui-protocol: pip install 'runstream[ag-ui]'") from error
    made: _Encoding = encoding(info, position, int(sent or 0))
    return made


def _end_frame(run_id: str, status: str, last_offset: int, position: str) -> bytes:
    return frame({"run_id": run_id, "status": status, "last_offset": last_offset}, name="end", position=position)


def told(happening: Happening, position: str) -> bytes:
    """The server-sent event that tells what happens.

    Args:
        happening: What happens.
        position: Where a browser goes on that had this last.
    """
    if isinstance(happening, Given):
        if isinstance(happening.item, Framed) and position == happening.item.cursor:
            return happening.item.frame
        return frame(event_facts(happening.item), position=position)
    if isinstance(happening, Unreadable):
        facts = {"run_id": happening.run_id, "offset": happening.offset, "problem": type(happening.error).__name__}
        return frame(facts, name="unreadable", position=position)
    if isinstance(happening, Lost):
        return frame({"run_id": happening.run_id, **document(happening.error)}, name="lost", position=position)
    if isinstance(happening, Failed):
        return frame(document(happening.error), name="problem")
    return frame(position=position)
