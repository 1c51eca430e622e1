"""Runs, their events and their states, as JSON documents, page by page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.codec.json_facts import event_facts, run_facts
from runstream.codec.lossless_json import dump_json
from runstream.integrations.langgraph.readable import readable_payload
from runstream.model.results import Recorded, RunInfo
from runstream.operations.arguments import FollowQuery, RunsQuery
from runstream.operations.filters import EventFilter
from runstream.web.access import Access
from runstream.web.last_events import LastEvents
from runstream.web.path_ids import path_id
from runstream.web.problems import json_response
from runstream.web.queries import Parameter, Query
from runstream.web.waiting import WaitingRuns

__all__ = ["EVENTS", "FILTERS", "READABLE", "RUNS", "Reading", "facts_of", "filter_of", "shown_facts"]

_MOST_RUNS = 1000
_MOST_EVENTS = 1000
_MOST_BYTES = 8 * 2**20  # of the events of a page, and one event; about, where text is not ASCII
_SCANNED = 10_000  # how many events one request looks at, whatever few of them are wanted
_SCANNED_RUNS = 10_000  # likewise
_RUNS, _EVENTS = 100, 200

_LIMIT = Parameter("limit", "How many to give at most.", "integer")
_WAITING = Parameter("waiting", "true: only the runs that wait for an answer, of the 10,000 that are looked at.")
_LAST = Parameter("last", "true: with the last event of each run, on a line; null where that is not known yet.")

RUNS = (
    Parameter("contains", "Only the runs whose id has this text in it, of the 10,000 that are looked at."),
    Parameter("session", "Only the runs of this session."),
    Parameter("status", "Only the runs in this status."),
    Parameter("tag", "Only the runs with this tag, NAME=VALUE; each that is given.", is_many=True),
    Parameter("created_after", "Only the runs created after this time: Unix time in seconds.", "number"),
    Parameter("updated_after", "Only the runs updated after this time, likewise.", "number"),
    Parameter("updated_before", "Only the runs updated before this time, likewise.", "number"),
    _WAITING,
    _LAST,
    Parameter("page", "Give them in the order in which they were created, each once: empty for the first page."),
    _LIMIT,
)

FILTERS = (
    Parameter("lane", "Only the events of this lane."),
    Parameter("kind", "Only the events of this kind; each that is given.", is_many=True),
    Parameter("visibility", "Only what such a viewer may see: public, internal or debug."),
)

READABLE = Parameter("readable", "true: what LangGraph's checkpointer keeps is given as people read it.")

EVENTS = (
    Parameter("after", "Begin after this offset, or after this cursor, which is checked to be of this history."),
    Parameter("before", "End before this offset.", "integer"),
    Parameter("order", "asc: the oldest first; desc: the newest first."),
    _LIMIT,
    *FILTERS,
    READABLE,
)


def shown_facts(item: Recorded[Any]) -> dict[str, Any]:
    """An event with its position, as people read it: of a checkpointer's, the channels that changed."""
    facts = event_facts(item)
    return {**facts, "payload": readable_payload(facts["kind"], facts["payload"])}


def filter_of(query: Query) -> EventFilter:
    """Which events are wanted."""
    wanted = FollowQuery(
        lane_id=query.text("lane"), kinds=query.texts("kind") or None, visibility=query.text("visibility")
    )
    return EventFilter(wanted)


class Reading:
    """The endpoints that read.

    Args:
        access: The runs, for those who may see them.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._last, self._waiting = LastEvents(), WaitingRuns()

    async def runs(self, request: Request) -> Response:
        """The runs that the sender may see, the most recently updated first."""
        query = Query(request, RUNS)
        limit = query.number("limit", least=1, most=_MOST_RUNS) or _RUNS
        page, contains = query.text("page"), query.text("contains") or ""
        is_waiting = query.is_on(_WAITING)
        store = await self._access.store()
        found: list[RunInfo] = []
        passed = ""
        more, left = False, _SCANNED_RUNS
        asked: dict[str, Any] = {
            "session_id": query.text("session"),
            "status": query.text("status"),
            "tags": query.tags(),
            "created_after": query.seconds("created_after"),
            "updated_after": query.seconds("updated_after"),
            "updated_before": query.seconds("updated_before"),
            "page": page,
        }
        is_narrow = any(asked[name] is not None for name in ("session_id", "tags", "page"))
        by_heart = is_waiting and not is_narrow
        source = self._waiting.of(store, RunsQuery(**asked)) if by_heart else store.runs(**asked)
        async with aclosing(source) as infos:
            async for info in infos:
                if info is None or len(found) == limit or left == 0:
                    more = True
                    break
                left -= 1
                if await self._access.may(request, "read", info):
                    passed = info.page
                    if contains in info.run_id and (info.waiting_for or not is_waiting):
                        found.append(info)
                elif not passed.startswith(f"{info.created_at!r}:"):
                    passed = f"{info.created_at!r}:\0"  # before all of that time: the run's id is not told
        following = query.with_other(page=passed) if more and page is not None else None
        runs = await facts_of(self._access, request, *found)
        if query.is_on(_LAST):
            for facts, last in zip(runs, await self._last.of(store, found), strict=True):
                facts["last"] = last
        return json_response({"runs": runs, "more": more, "next": following})

    async def run(self, request: Request) -> Response:
        """What is known of a run."""
        Query(request, ())
        info = await self._access.run(request)
        (facts,) = await facts_of(self._access, request, info)
        return json_response(facts)

    async def lanes(self, request: Request) -> Response:
        """The lanes of a run."""
        Query(request, ())
        info = await self._access.run(request)
        lanes = await (await self._access.store()).lanes(info.run_id)
        return json_response({"run_id": info.run_id, "lanes": [asdict(lane) for lane in lanes]})

    async def events(self, request: Request) -> Response:
        """Events of a run, a page of them."""
        query = Query(request, EVENTS)
        info = await self._access.run(request)
        wanted = filter_of(query)
        limit = query.number("limit", least=1, most=_MOST_EVENTS) or _EVENTS
        is_reverse = query.choice("order", ("asc", "desc")) == "desc"
        store = await self._access.store()
        scanned = _SCANNED if query.has(FILTERS) else limit
        items = store.read(
            info.run_id,
            query.position("after") or 0,
            before=query.number("before"),
            limit=scanned + 1,
            reverse=is_reverse,
            on_corrupt="raw",
        )
        page = _EventPage(limit, scanned, shown_facts if query.is_on(READABLE) else event_facts)
        async with aclosing(items):
            async for item in items:
                if page.is_full:
                    page.more = True
                    break
                page.take(item, wanted)
        following = None
        if page.more and page.cursor is not None:
            offset = int(page.cursor.partition("-")[0])
            following = query.with_other(before=offset) if is_reverse else query.with_other(after=page.cursor)
        facts = {"run_id": info.run_id, "unreadable": page.unreadable, "cursor": page.cursor, "next": following}
        text = f'{{"events":[{",".join(page.events)}],{dump_json(facts)[1:]}'
        return Response(text, media_type="application/json")


class _EventPage:
    """A page of events, as JSON: what is wanted of those that it looks at, up to some MiB and an event."""

    def __init__(self, limit: int, scanned: int, facts: Callable[[Recorded[Any]], dict[str, Any]]) -> None:
        self.events: list[str] = []
        self.unreadable: list[int] = []
        self.cursor: str | None = None
        self.more = False
        self._left, self._limit, self._facts = scanned, limit, facts
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        given = len(self.events) + len(self.unreadable)
        return self._left == 0 or given >= self._limit or self._bytes >= _MOST_BYTES

    def take(self, item: Any, wanted: EventFilter) -> None:
        self._left -= 1
        self.cursor = item.cursor
        if isinstance(item.event, dict | bytes):
            self.unreadable.append(item.offset)
        elif wanted(item.event):
            text = dump_json(self._facts(item))
            self.events.append(text)
            self._bytes += len(text)


async def facts_of(access: Access, request: Request, *infos: RunInfo) -> list[dict[str, Any]]:
    """What is known of runs, with their names in paths.

    Where a run comes from is told to who may read that run.
    """
    parents = {info.parent[0] for info in infos if info.parent is not None}
    hidden = {one for one in parents if not await access.may_name(request, one)}
    found = [{"id": path_id(info.run_id), **run_facts(info, is_hot=True)} for info in infos]
    for facts in found:
        if facts["parent"] is not None and facts["parent"]["run_id"] in hidden:
            facts["parent"] = None
    return found
