"""The ASGI app: runs as JSON documents and as streams of server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from runstream.model.awaitable import Opening
from runstream.model.errors import ConfigurationError, RunstreamError
from runstream.model.identifiers import shown
from runstream.stores.async_facade import AsyncStore
from runstream.stores.facade import Store
from runstream.web.access import Access, Action, Authorize, parse_actions
from runstream.web.endpoints import endpoints
from runstream.web.frames import StreamLimit
from runstream.web.headers import SafeHeaders
from runstream.web.openapi import openapi
from runstream.web.opened import OpenedStore
from runstream.web.page_files import page_routes
from runstream.web.problems import LOST, Refused, on_error, on_http_error

__all__ = ["app"]


def app(
    store: AsyncStore[Any, Any] | Opening[Any] | Store[Any, Any],
    *,
    authorize: Authorize | None = None,
    actions: Collection[Action] = (),
    origins: Collection[str] = (),
    max_streams: int = 2000,
) -> ASGIApp:
    """Make an ASGI app that shows the runs of a store: to be mounted in another one, or served alone.

    Its streams are resumed after their ``Last-Event-ID`` by any app over the same runs, in any process. A client
    that does not read costs at most what its connection buffers and two pages of events (each at most 16 MiB,
    or one event). Its page is at ``/``; what else it answers is in ``/openapi.json``, and in
    docs/web.md.

    Args:
        store: The store, best what ``runstream.connect_async(url, archive=…)`` gives, which is opened at the first
            request. It is the app's own: what it saw of a run and the server has lost it forgets, once it has told
            so, and a writer would not be told any more. A synchronous store is read in threads, and gives at most
            64 streams at a time.
        authorize: Called with the request, the action (``"read"``, or one of ``actions``) and what is known of the
            run (:class:`~runstream.model.results.RunInfo`), before anything is told of that run or done with it:
            whether the sender may do that. It may be a coroutine function, must not block, and may raise
            Starlette's ``HTTPException``. None: everybody who reaches the app reads everything.
        actions: What the app does beside reading: ``"answer"``, ``"cancel"``, ``"fork"``. They need ``authorize``.
        origins: The origins whose pages may act beside the app's own, as ``https://example.org``.
        max_streams: How many streams it gives at a time; further ones are refused with status 503.

    Returns:
        The app.

    Raises:
        ConfigurationError: An argument does not fit.
    """
    if isinstance(max_streams, bool) or not isinstance(max_streams, int) or max_streams < 1:
        raise ConfigurationError(f"max_streams={shown(max_streams)}: pass a whole number, 1 or more")
    allowed = parse_actions(actions, authorize)
    opened = OpenedStore(store)
    access = Access(opened, authorize, origins)
    limit = StreamLimit(
        min(max_streams, opened.most_streams or max_streams),
        "as many streams as this app gives are open: try again later, or add a process",
    )
    there = [one for one in endpoints(access, limit) if one.action == "read" or one.action in allowed]
    told = json.dumps(openapi(there))  # not tagged as values are: its "$ref" is one

    async def document(_request: Request) -> Response:
        return Response(told, media_type="application/json")

    async def on_lost(request: Request, error: Exception) -> Response:
        # it is told once: then the run is as it is
        await (await access.store()).forget(getattr(error, "run_id", ""))
        return await on_error(request, error)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await access.close()

    routes = [Route(one.path, one.handler, methods=[one.method]) for one in there]
    handlers: dict[Any, Any] = {
        **dict.fromkeys((RunstreamError, Refused), on_error),
        **dict.fromkeys(LOST, on_lost),
        HTTPException: on_http_error,
    }
    inner = Starlette(
        routes=[*routes, Route("/openapi.json", document), *page_routes()],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    return SafeHeaders(inner)
