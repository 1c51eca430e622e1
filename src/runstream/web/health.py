"""How the archiving of a namespace stands: whether anybody does it, and how far it lags behind."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.model.errors import RunstreamError
from runstream.web.access import Access
from runstream.web.problems import json_response
from runstream.web.queries import Query

__all__ = ["Health"]

_KNOWN_SECONDS = 5.0


class Health:
    """The endpoint that tells it, in numbers alone: it names no run, no archive and no worker.

    Args:
        access: The store.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._turn = asyncio.Lock()
        self._known: dict[str, Any] | RunstreamError = {}
        self._until = 0.0

    async def health(self, request: Request) -> Response:
        """Whether what is due is archived: the alarms of ``runstream status`` by name, and a few counts."""
        Query(request, ())
        async with self._turn:  # however many look, the server is asked once in a while
            if time.monotonic() > self._until:
                try:
                    health = await (await self._access.store()).archiving_health()
                    self._known = {**asdict(health), "alarms": list(health.alarms)}
                except RunstreamError as error:  # who waits meanwhile is told so, too, and does not try in turn
                    self._known = error
                self._until = time.monotonic() + _KNOWN_SECONDS
        if isinstance(self._known, RunstreamError):
            raise self._known.with_traceback(None)
        return json_response(self._known)
