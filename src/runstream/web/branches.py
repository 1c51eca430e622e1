"""Where a run comes from, and what was forked from it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runstream.model.results import Fork
from runstream.web.access import Access
from runstream.web.path_ids import path_id
from runstream.web.problems import json_response
from runstream.web.queries import Query

__all__ = ["Branches"]

_MOST_FORKS = 200


class Branches:
    """The endpoint that tells it.

    Args:
        access: The runs, for those who may see them.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    async def forks(self, request: Request) -> Response:
        """The runs that a run comes from, the nearest first, and those that were forked from it."""
        Query(request, ())
        info = await self._access.run(request)
        store = await self._access.store()
        forks: list[Fork] = await store.forks(info.run_id)
        found = [await self._seen(request, fork) for fork in forks[:_MOST_FORKS]]
        return json_response(
            {
                "run_id": info.run_id,
                "ancestors": await self._ancestors(request, await store.ancestors(info.run_id)),
                "forks": [one for one in found if one is not None],
                "more": len(forks) > _MOST_FORKS,
            }
        )

    async def _ancestors(self, request: Request, ancestors: list[Fork]) -> list[dict[str, Any]]:
        """Those that the sender may see: what lies behind one that he may not is not told."""
        found: list[dict[str, Any]] = []
        for ancestor in ancestors:
            facts = await self._seen(request, ancestor)
            if facts is None:
                break
            found.append(facts)
        return found

    async def _seen(self, request: Request, run: Fork) -> dict[str, Any] | None:
        """What is told of a run of the same branch; None where the sender may not see it."""
        info = await self._access.readable(request, run.run_id)
        if info is None:
            return None
        facts = {"run_id": info.run_id, "status": info.status, "last_offset": info.last_offset}
        return {"id": path_id(info.run_id), **facts, "offset": run.at}
