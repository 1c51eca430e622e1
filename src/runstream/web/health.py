"""How the archiving of a namespace stands: whether anybody does it, and how far it lags behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.model.errors import RunstreamError
from runstream.stores.redis.operations.admin.alarms import alarms_of
from runstream.stores.redis.operations.admin.status import NamespaceStatus, namespace_status
from runstream.web.access import Access
from runstream.web.problems import json_response
from runstream.web.queries import Query

__all__ = ["Health"]

_LAG_SECONDS = 300.0
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
                    self._known = _facts(await self._access.ask(namespace_status))
                except RunstreamError as error:  # who waits meanwhile is told so, too, and does not try in turn
                    self._known = error
                self._until = time.monotonic() + _KNOWN_SECONDS
        if isinstance(self._known, RunstreamError):
            raise self._known.with_traceback(None)
        return json_response(self._known)


def _facts(status: NamespaceStatus | None) -> dict[str, Any]:
    if status is None:
        return {"workers": 0, "due": 0, "backlog_events": 0, "oldest_due_seconds": 0.0, "alarms": []}
    return {
        "workers": sum(map(status.is_living, status.workers)),
        "due": status.due,
        "backlog_events": status.backlog_events,
        "oldest_due_seconds": status.oldest_due_seconds,
        "alarms": sorted({alarm.name for alarm in alarms_of(status, _LAG_SECONDS)}),
    }
